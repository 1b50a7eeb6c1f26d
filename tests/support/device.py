"""The devices of tests that `make test-gpu` runs on a GPU; on the CPU they are tests like any
other.
"""

from __future__ import annotations

import pytest
import torch

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


def require(device: str, gpus: int = 1) -> str:
    """The device; skips the test where it is `cuda` and too few of them are there."""
    if device == "cuda" and torch.cuda.device_count() < gpus:
        pytest.skip(
            f"needs {gpus} CUDA device{'s' * (gpus > 1)}; torch {torch.__version__} finds fewer"
        )
    return device
