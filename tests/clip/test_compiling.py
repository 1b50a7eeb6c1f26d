"""Compiling: where it fails the same comes out, after one warning. For which runs a GPU compiles,
and what happens where the forward pass fails, is in `gpu/test_pretended.py`.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.methods import attach, set_trainable
from torch._dynamo.backends.common import aot_autograd

from react_pipeline.clip import ImageTower, load


def breaks(*_: Any) -> Any:
    raise ValueError("no compiler of gradients")


def test_a_compiler_that_fails_backwards_is_left_after_one_warning(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch._dynamo.reset()  # what other tests compiled
    backend = aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=breaks)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = load(tiny_checkpoint).model
    attach(model, "gated-image", 2)
    set_trainable(model, "gated-image")
    images = torch.rand(2, 3, 32, 32)
    plain, ours = (ImageTower(model, is_compiled=one)(images) for one in (False, True))
    assert torch.equal(plain, ours)
    ours.sum().backward()
    warned = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warned) == 1 and "no compiler of gradients" in warned[0].getMessage()
