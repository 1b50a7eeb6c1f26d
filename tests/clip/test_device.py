"""`device: auto` takes a GPU that torch can use, and does not pass over another one in silence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from react_pipeline.clip import choose_device, device, device_counts
from react_pipeline.store import InputError, Inputs, Store
from react_pipeline.tracking.values import tags_of

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine with a driver of a version, and a torch that was built for a CUDA."""
    device.log_once.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")

    def make(
        driver: str = "",
        cuda: str | None = None,
        archs: tuple[str, ...] = (),
        capability: tuple[int, int] | None = None,
    ) -> None:
        if driver:
            device.DRIVER.write_text(f"{driver}\n")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(archs))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")

    return make


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_without_a_gpu_auto_takes_the_cpu_and_cuda_is_refused(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:  # FAULTS 26
    machine()
    assert choose_device("auto") == "cpu" and not caplog.messages
    with pytest.raises(InputError, match="device: cuda"):
        choose_device("cuda")
    assert device_counts("cpu") == {"device": "cpu", "gpu": ""}


@pytest.mark.parametrize(
    ("driver", "cuda", "archs", "capability", "index"),
    [
        ("535.104.05", "13.0", ("sm_90",), None, "cu126"),  # too old for CUDA 13
        ("580.65.06", None, (), None, "cu130"),  # a torch for CPUs
        ("550.54", None, (), None, "cu126"),
        ("580.65.06", "13.0", ("sm_75", "sm_90"), (7, 0), "cu126"),  # no code for Volta
        ("580.65.06", "12.6", ("sm_70", "sm_90"), (12, 0), "cu130"),  # nor for Blackwell
    ],
)
def test_a_gpu_that_torch_cannot_use_is_reported_once(
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    driver: str,
    cuda: str | None,
    archs: tuple[str, ...],
    capability: tuple[int, int] | None,
    index: str,
) -> None:
    machine(driver, cuda, archs, capability)
    with caplog.at_level(logging.WARNING):
        assert [choose_device("auto") for _ in range(3)] == ["cpu"] * 3
    (warning,) = caplog.messages
    with pytest.raises(InputError) as refused:
        choose_device("cuda")
    for text in (warning, str(refused.value)):
        assert all(word in text for word in (driver, cuda or "CPUs", *archs, f"whl/{index},"))
    assert choose_device("cpu") == "cpu"


def test_a_hidden_gpu_is_passed_over_in_silence(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine("580.65.06", "13.0", ("sm_90",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto") == "cpu" and not caplog.messages


@pytest.mark.parametrize(
    ("archs", "capability"),
    [
        (("sm_80", "sm_90"), (9, 0)),
        (("sm_80", "sm_86"), (8, 9)),  # code of the same generation
        (("sm_80", "compute_90"), (12, 0)),  # PTX, which the driver compiles
    ],
)
def test_a_usable_gpu_is_named_in_log_manifest_and_tags(
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
    archs: tuple[str, ...],
    capability: tuple[int, int],
    tmp_path: Path,
) -> None:
    machine("580.65.06", "13.0", archs, capability)
    with caplog.at_level(logging.INFO):
        assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert ["H100" in message for message in caplog.messages] == [True]
    counts = device_counts("cuda:0")
    assert counts == {"device": "cuda:0", "gpu": "NVIDIA H100 80GB HBM3"}
    inputs = Inputs("customized_checkpoint", "birds/full", {}, {}, "1")
    artifact = Store(tmp_path).build(inputs, lambda *_: counts)
    assert tags_of(artifact, "")["gpu"] == counts["gpu"]
