"""FAULTS 27 and 28: a loss that is no number, and a training killed in the middle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_processes import killed, train_until_killed

from react_pipeline.customize import customize
from react_pipeline.errors import TrainingError
from react_pipeline.lineage import Project

Make = Callable[..., Project]


@pytest.fixture
def project(make_project: Make, _retrieved_store: Path) -> Project:
    made = make_project(
        customization={"defaults": {"last_k_layers": 2, "steps": 8, "batch_size": 8, "checkpoint_every": 2}}
    )
    shutil.copytree(_retrieved_store, made.config.store)
    return made


def losses(project: Project) -> list[float]:
    artifact = customize(project, "shapes", "gated-image")
    records = [json.loads(line) for line in artifact.file("metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(8))
    return [record["loss"] for record in records]


def test_killed_twice_it_repeats_the_losses_of_an_uninterrupted_run(project: Project) -> None:  # 28
    expected = losses(project)
    shutil.rmtree(project.config.store / "customized_checkpoint")
    for step in (3, 7):
        killed(train_until_killed, project.path, step)
        assert not (project.config.store / "customized_checkpoint").exists()
    assert losses(project) == expected
    assert project.store.current("customized_checkpoint", "shapes/gated-image").counts["first_step"] == 6


def test_a_broken_state_is_skipped_for_an_older_one(project: Project) -> None:  # 28
    expected = losses(project)
    shutil.rmtree(project.config.store / "customized_checkpoint")
    killed(train_until_killed, project.path, 7)
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
