"""FAULTS 28: a training killed in the middle, stopped by a guard, or failed by its disk."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.processes import killed, train_until_killed
from support.training import prepared, records

from react_pipeline.project.project import Project
from react_pipeline.store.errors import CorruptArtifact, StoreWriteError, TrainingError
from react_pipeline.training.customization import customize
from react_pipeline.training.log import TrainingObserver

Make = Callable[..., Project]


@pytest.fixture
def project(make_project: Make, _retrieved_store: Path) -> Project:
    return prepared(make_project, _retrieved_store, steps=8, augmentation="timm")


def losses(project: Project) -> list[float]:
    found = records(customize(project, "shapes", "gated-image"))
    assert [record["step"] for record in found] == list(range(8))
    return [record["loss"] for record in found]


def first_step(project: Project) -> int:
    artifact = project.store.current("customized_checkpoint", "shapes/gated-image")
    return int(artifact.counts["first_step"])


def test_killed_twice_it_repeats_losses_of_an_uninterrupted_run(project: Project) -> None:  # 28
    expected = losses(project)
    shutil.rmtree(project.config.store / "customized_checkpoint")
    for step in (3, 7):
        killed(train_until_killed, project.path, step)
        assert not (project.config.store / "customized_checkpoint").exists()
    assert losses(project) == expected
    assert first_step(project) == 6


def test_a_broken_state_is_skipped_for_an_older_one(project: Project) -> None:  # 28
    expected = losses(project)
    shutil.rmtree(project.config.store / "customized_checkpoint")
    killed(train_until_killed, project.path, 7)
    newest = max(project.config.store.rglob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-10])
    assert losses(project) == expected
    assert first_step(project) == 4


class At(TrainingObserver):
    """Does something after a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def stepped(self, record: Mapping[str, float]) -> None:
        if record["step"] == self.step:
            self.action()


def test_a_shard_gone_in_mid_epoch_is_named_and_can_be_restored(
    make_project: Make, _retrieved_store: Path
) -> None:
    fields = {"steps": 60, "workers": 1, "augmentation": "mild"}
    project = prepared(make_project, _retrieved_store, **fields)
    shard = min(project.store.current("retrieved_set", "shapes").path.glob("shards/*.tar"))
    aside = shard.with_suffix(".aside")
    with pytest.raises(CorruptArtifact, match=rf"^{shard}.*rematerialize `retrieved_set`[^\n]*$"):
        customize(project, "shapes", "gated-image", At(5, lambda: shard.rename(aside)))
    aside.rename(shard)
    # In the same process, whose lock no decoding process may have kept.
    assert 6 <= customize(project, "shapes", "gated-image").counts["first_step"] < 60


def test_a_disk_that_takes_no_state_stops_training_cleanly(project: Project) -> None:
    expected = losses(project)
    shutil.rmtree(project.config.store / "customized_checkpoint")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (20_000, hard)
        )  # less than a state, more than the log

    try:
        with pytest.raises(StoreWriteError, match=r"step-\d+: .*bytes are needed"):
            customize(project, "shapes", "gated-image", At(4, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert losses(project) == expected
    assert first_step(project) == 4


def test_training_that_guard_stopped_leaves_no_decoding_process(
    make_project: Make, _retrieved_store: Path
) -> None:
    fields = {"steps": 60, "workers": 1, "augmentation": "mild"}
    project = prepared(make_project, _retrieved_store, **fields)
    before = multiprocessing.active_children()

    def stop() -> None:
        raise TrainingError("stopped")

    with pytest.raises(TrainingError, match="stopped") as raised:
        customize(project, "shapes", "gated-image", At(2, stop))
    assert raised.tb and multiprocessing.active_children() == before
