"""FAULTS 27 and 28: a loss that is no number, and a training killed in the middle."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.clip.base import publish_base
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store.errors import TrainingError
from react_pipeline.training.customization import customize

Make = Callable[..., Project]


@pytest.fixture
def project(make_project: Make, _indexed_store: Path) -> Project:
    made = make_project(
        customization={"defaults": {"last_k_layers": 2, "steps": 8, "batch_size": 8, "checkpoint_every": 2}}
    )
    shutil.copytree(_indexed_store, made.config.store)
    publish_base(made)
    publish_evaluation_set(made, "shapes")
    retrieve_pairs(made, "shapes")
    return made


def losses(project: Project) -> list[float]:
    artifact = customize(project, "shapes", "gated-image")
    records = [json.loads(line) for line in artifact.file("metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(8))
    return [record["loss"] for record in records]


KILLED = """
import os, signal, sys
from react_pipeline.training.customization import customize
from react_pipeline.training.step import TrainingStep
from react_pipeline.project.project import Project
take = TrainingStep.take
def dying(self, number, *rest, **options):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, number, *rest, **options)
TrainingStep.take = dying
customize(Project.load(sys.argv[1]), "shapes", "gated-image")
"""


def test_killed_twice_it_repeats_the_losses_of_an_uninterrupted_run(project: Project) -> None:  # 28
    expected = losses(project)
    shutil.rmtree(project.config.store / "customized_checkpoint")
    for step in (3, 7):
        done = subprocess.run([sys.executable, "-c", KILLED, str(project.path), str(step)])
        assert done.returncode == -signal.SIGKILL
        assert not (project.config.store / "customized_checkpoint").exists()
    assert losses(project) == expected
    assert project.store.current("customized_checkpoint", "shapes/gated-image").counts["first_step"] == 6


def test_a_broken_state_is_skipped_for_an_older_one(project: Project) -> None:  # 28
    expected = losses(project)
    shutil.rmtree(project.config.store / "customized_checkpoint")
    subprocess.run([sys.executable, "-c", KILLED, str(project.path), "7"])
    newest = max(project.config.store.rglob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-10])
    assert losses(project) == expected
    assert project.store.current("customized_checkpoint", "shapes/gated-image").counts["first_step"] == 4


def test_a_loss_that_is_no_number_publishes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:  # 27
    import torch

    from react_pipeline.training import step as module

    whole = module.contrastive_loss

    def poisoned(*args: Any, **options: Any) -> torch.Tensor:
        return whole(*args, **options) * float("nan")

    monkeypatch.setattr(module, "contrastive_loss", poisoned)
    with pytest.raises(TrainingError, match="learning_rate"):
        customize(project, "shapes", "gated-image")
    assert project.store.keys("customized_checkpoint") == []
