"""What must hold on a GPU: the numbers of a CPU up to rounding, and nothing lost. Where precisions
differ, the same tests run on the CPU.

`extensions/cluster/test_distributed.py` tests several GPUs, and needs two of them for NCCL.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.device import DEVICES, require
from support.processes import killed, train_until_killed
from support.training import prepared, records
from support.vectors import read_vectors

from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import FOLDERS
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from react_pipeline.training.customization import customize

STEPS = 12
IMAGES = {"augmentation": "mild", "workers": 1}
"""Through decoding processes, page-locked memory and the copying stream, instead of kept tokens."""

Trained = Callable[..., Artifact]
ON_A_GPU = pytest.mark.parametrize("device", DEVICES[1:], indirect=True)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return require(request.param)


@pytest.fixture
def trained(make_project: Callable[..., Project], _retrieved_store: Path) -> Trained:
    """Trains `gated-image` in a store of its own, on a device with some fields changed."""

    def train(device: str, kill_at: int | None = None, **fields: Any) -> Artifact:
        make = partial(make_project, device=device)
        project = prepared(make, _retrieved_store, **{"steps": STEPS, **fields})
        if kill_at is not None:
            killed(train_until_killed, project.path, kill_at)
        return customize(project, "shapes", "gated-image")

    return train


def losses(artifact: Artifact) -> list[float]:
    lines = records(artifact)
    assert [line["step"] for line in lines] == list(range(STEPS))
    return [line["loss"] for line in lines]


@ON_A_GPU
@pytest.mark.parametrize("fields", [{}, IMAGES], ids=["kept tokens", "images"])
def test_losses_in_full_precision_are_those_of_the_cpu(
    device: str, trained: Trained, fields: dict[str, Any]
) -> None:
    artifact = trained(device, **fields)
    assert artifact.counts["device"] == device and artifact.counts["peak_memory_bytes"] > 0
    assert losses(artifact) == pytest.approx(losses(trained("cpu", **fields)), rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 0.02), ("fp16", 0.1)]
)
def test_attaching_changes_no_feature_in_any_precision(
    device: str, trained: Trained, precision: str, tolerance: float
) -> None:
    artifact = trained(device, precision=precision)
    assert artifact.counts["step0_max_difference"] == 0
    # In fp16 the scaler skips first steps until it has found its scale, so its curve runs some
    # steps behind.
    assert losses(artifact) == pytest.approx(losses(trained(device)), rel=tolerance)


@ON_A_GPU
def test_killed_training_ends_with_losses_of_uninterrupted_one(
    device: str, trained: Trained
) -> None:
    whole, resumed = losses(trained(device)), trained(device, kill_at=7)
    assert resumed.counts["first_step"] == 6
    # It may add in another order each time.
    assert losses(resumed) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    ("precision", "cosine"), [("fp32", 0.999_99), ("bf16", 0.999), ("fp16", 0.999)]
)
def test_embeddings_are_those_of_the_cpu(
    device: str,
    make_project: Callable[..., Project],
    _indexed_store: Path,
    precision: str,
    cosine: float,
) -> None:
    project = make_project(device=device, embedding={"precision": precision})
    shutil.copytree(_indexed_store, project.config.store)
    of_cpu = project.store.current("corpus_embeddings", "all")
    theirs = {side: read_vectors(of_cpu, side) for side in FOLDERS}
    shutil.rmtree(of_cpu.path.parent)
    ours = embed_corpus(project)
    for side in FOLDERS:
        pair = read_vectors(ours, side), theirs[side]
        assert torch.cosine_similarity(*map(torch.from_numpy, pair)).min() > cosine
