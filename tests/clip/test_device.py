"""`device: auto` takes a GPU that torch can use, and does not pass over another one in silence;
`precision: auto` is what the device runs fastest, and is no part of any identity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from react_pipeline.clip import (
    arithmetic,
    choose_device,
    choose_precision,
    device,
    device_counts,
    publish_base,
)
from react_pipeline.corpus import publish_corpus
from react_pipeline.embedding import embed_corpus
from react_pipeline.project import Project
from react_pipeline.store import InputError, Inputs, Store
from react_pipeline.tracking import run_tags

Make = Callable[..., Project]
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine with a driver of a version, and a torch that was built for a CUDA."""
    device.log_once.cache_clear()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")

    def make(driver: str = "", cuda: Any = None, archs: Any = (), capability: Any = None) -> None:
        if driver:
            device.DRIVER.write_text(f"{driver}\n")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(archs))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")

    return make


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize("hidden", [False, True])
def test_without_a_gpu_auto_takes_the_cpu_and_cuda_is_refused(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hidden: bool,
) -> None:  # FAULTS 26
    machine("580.65.06" * hidden)
    if hidden:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto") == "cpu" and not caplog.messages
    with pytest.raises(InputError, match="device: cuda"):
        choose_device("cuda")
    assert device_counts("cpu") == {"device": "cpu", "gpu": ""}


@pytest.mark.parametrize(
    "given",
    [
        ("13.0", ("sm_90",)),  # a driver too old for CUDA 13
        (None,),  # a torch for CPUs
        ("13.0", ("sm_80", "sm_90"), (7, 0)),  # no code for Volta
        ("12.6", ("sm_70", "sm_90"), (12, 0)),  # nor for Blackwell
    ],
)
def test_a_gpu_that_torch_cannot_use_is_reported_once(
    machine: Machine, caplog: pytest.LogCaptureFixture, given: tuple[Any, ...]
) -> None:
    machine("535.104.05", *given)
    with caplog.at_level(logging.WARNING):
        assert [choose_device("auto") for _ in range(3)] == ["cpu"] * 3
    (warning,) = caplog.messages
    with pytest.raises(InputError) as refused:
        choose_device("cuda")
    for text in (warning, str(refused.value)):
        assert all(word in text for word in (given[0] or "CPUs", "download.pytorch.org"))
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize(
    "given",
    [
        (("sm_80", "sm_90"), (9, 0)),
        (("sm_80", "sm_86"), (8, 9)),  # code of the same generation
        (("sm_80", "compute_90"), (12, 0)),  # PTX, which the driver compiles
    ],
)
def test_a_usable_gpu_is_named_in_log_manifest_and_tags(
    machine: Machine, caplog: pytest.LogCaptureFixture, tmp_path: Path, given: tuple[Any, ...]
) -> None:
    machine("580.65.06", "13.0", *given)
    with caplog.at_level(logging.INFO):
        assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert ["H100" in message for message in caplog.messages] == [True]
    counts = device_counts("cuda:0")
    assert counts == {"device": "cuda:0", "gpu": "NVIDIA H100 80GB HBM3"}
    inputs = Inputs("customized_checkpoint", "birds/full", {}, {}, "1")
    artifact = Store(tmp_path / "store").build(inputs, lambda *_: counts)
    assert run_tags(artifact, "")["gpu"] == counts["gpu"]


@pytest.mark.parametrize(
    ("probed", "chosen"),
    [(1.3, "bf16"), (1.0, "fp32"), ((8, 0), "bf16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_auto_is_what_the_probe_of_a_processor_or_the_card_says(
    monkeypatch: pytest.MonkeyPatch, probed: Any, chosen: str
) -> None:
    monkeypatch.setattr(device, "speedup", lambda *_: probed)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: probed)
    assert choose_precision("auto", "cuda" if isinstance(probed, tuple) else "cpu") == chosen


def test_what_auto_chose_is_in_the_manifest_alone(
    make_project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(embedding={"precision": "auto"})
    publish_corpus(project)
    publish_base(project)
    for measured in (8.0, 0.01):
        monkeypatch.setattr(device, "speedup", lambda *_, measured=measured: measured)
        embeddings = embed_corpus(project)
    # Made in bf16, and fresh on the processor that would take fp32.
    assert embeddings.reused and embeddings.counts["precision"] == "bf16"


def test_a_precision_is_what_its_name_says_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    halves = [f"allow_{one}_reduced_precision_reduction" for one in ("fp16", "bf16")]
    flags = [(cudnn, "allow_tf32"), (matmul, "allow_tf32"), *((matmul, one) for one in halves)]
    for flag in flags:
        monkeypatch.setattr(*flag, True)
    with pytest.raises(RuntimeError), arithmetic():
        assert [getattr(*flag) for flag in flags] == [False] * 4
        raise RuntimeError
    assert [getattr(*flag) for flag in flags] == [True] * 4
