"""FAULTS 28: a training killed in the middle, stopped by a guard, or failed by its disk."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import write_project
from support.processes import killed, train_until_killed
from support.training import FIELDS, prepared, records
from torch import Tensor

from react_pipeline.project import Project
from react_pipeline.store import CorruptArtifact, Scratch, StoreWriteError, TrainingError
from react_pipeline.training import TrainingObserver, customize, kept

Make = Callable[..., Project]
METHOD, WEIGHTS = "gated-image", "open_clip_model.safetensors"


HARD: dict[str, Any] = {
    # Every step sees other views of the images, and a loss scale that moves.
    **{"augmentation": "timm", "loss": "unicl", "precision": "fp16"},
    **{"accumulation": 2, "workers": 2, "learning_rate": 2e-3},
    # So many that fp16 has found its loss scale: on this model the first eight are skipped.
    "steps": 14,
}


def test_killed_twice_in_mid_epoch_it_ends_as_if_it_never_was(
    make_project: Make, _retrieved_store: Path
) -> None:  # 28
    project = prepared(make_project, _retrieved_store, **HARD)
    whole = customize(project, "shapes", METHOD)
    expected, weights = records(whole), whole.file(WEIGHTS).read_bytes()
    per_epoch = (whole.counts["pairs"] - whole.counts["held_out_pairs"]) // 8
    assert per_epoch > 1
    assert 2 % per_epoch or 6 % per_epoch, "one state must fall inside an epoch"
    assert 0 < whole.counts["skipped_steps"] < HARD["steps"] == len({r["loss"] for r in expected})
    shutil.rmtree(project.config.store / "customized_checkpoint")
    for step in (3, 7):
        killed(train_until_killed, project.path, step)
        assert not (project.config.store / "customized_checkpoint").exists()
    resumed = customize(project, "shapes", METHOD)
    assert resumed.counts["first_step"] == 6
    again = records(resumed)
    for name in ("step", "loss", "gradient_norm", "logit_scale", "gate_attn_1", "gate_dense_0"):
        assert [one.get(name) for one in again] == [one.get(name) for one in expected], name
    assert resumed.file(WEIGHTS).read_bytes() == weights
    assert not list(project.config.store.glob(".scratch/*"))


@pytest.fixture(scope="module")
def _killed_store(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    _retrieved_store: Path,
) -> Path:
    """The store of a project whose training was killed at its sixth step."""
    folder = tmp_path_factory.mktemp("killed")
    project = write_project(
        folder, tiny_checkpoint, drawings, customization={"defaults": {**FIELDS, "steps": 8}}
    )
    shutil.copytree(_retrieved_store, project.config.store)
    killed(train_until_killed, project.path, 5)
    return project.config.store


Resumed = Callable[..., Project]


@pytest.fixture
def left(make_project: Make, _killed_store: Path) -> Resumed:
    """Gives the killed project with some training fields changed."""
    return lambda **fields: prepared(make_project, _killed_store, **{"steps": 8, **fields})


def test_a_broken_state_is_skipped_for_an_older_one(left: Resumed) -> None:  # 28
    project = left()
    newest = max(scratch(project).glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-10])
    artifact = customize(project, "shapes", METHOD)
    assert artifact.counts["first_step"] == 2
    assert [record["step"] for record in records(artifact)] == list(range(8))


def scratch(project: Project) -> Path:
    (found,) = (project.config.store / ".scratch").glob("customized_checkpoint*/*")
    return found


def test_kept_tokens_outlive_the_kill(left: Resumed, monkeypatch: pytest.MonkeyPatch) -> None:
    project = left()
    (tokens,) = scratch(project).glob(f"{kept.TOKENS}-*")
    assert tokens.stat().st_size > 0
    own = kept.kept_rows

    def kept_rows(scratch: Scratch, name: str, shape: Any, _make: object, *rest: Any) -> Tensor:
        unwanted = Mock(side_effect=AssertionError("computed a second time"))
        return own(scratch, name, shape, unwanted, *rest)

    monkeypatch.setattr(kept, "kept_rows", kept_rows)
    artifact = customize(project, "shapes", METHOD)
    assert artifact.counts["first_step"] == 4 and artifact.counts["prefix_kept"]


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-3}, {"seed": 1}, {"last_k_layers": 1}], ids=str
)
def test_another_checkpoint_never_resumes_from_this_state(
    left: Resumed, change: dict[str, Any]
) -> None:
    project = left(**change)
    states = scratch(project)
    assert customize(project, "shapes", METHOD).counts["first_step"] == 0
    assert {path.name for path in states.glob("step-*")} == {"step-000000002", "step-000000004"}


def test_what_changes_only_the_speed_resumes(left: Resumed) -> None:
    faster = {"workers": 1, "accumulation": 3, "checkpoint_every": 3, "keep_prefix": False}
    artifact = customize(left(**faster), "shapes", METHOD)
    assert artifact.counts["first_step"] == 4
    assert [record["step"] for record in records(artifact)] == list(range(8))


def test_a_run_that_a_guard_stops_after_a_kill_keeps_its_state(
    left: Resumed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from react_pipeline.training import losses

    project, whole = left(), losses.contrastive_loss
    with monkeypatch.context() as patched:
        spoilt = lambda *given, **more: whole(*given, **more) * float("nan")  # noqa: E731
        patched.setattr(losses, "contrastive_loss", spoilt)
        with pytest.raises(TrainingError, match="loss is nan at step 4"):
            customize(project, "shapes", METHOD)
    assert customize(project, "shapes", METHOD).counts["first_step"] == 4


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
    fields = {"steps": 60, "workers": 1, "augmentation": "timm"}
    project = prepared(make_project, _retrieved_store, **fields)
    shard = min(project.store.current("retrieved_set", "shapes").path.glob("shards/*.tar"))
    aside = shard.with_suffix(".aside")
    with pytest.raises(CorruptArtifact, match=rf"^{shard}.*rematerialize `retrieved_set`[^\n]*$"):
        customize(project, "shapes", METHOD, At(5, lambda: shard.rename(aside)))
    aside.rename(shard)
    # In the same process, whose lock no decoding process may have kept.
    assert 6 <= customize(project, "shapes", METHOD).counts["first_step"] < 60


def test_a_disk_that_takes_no_state_stops_training_cleanly(
    make_project: Make, _retrieved_store: Path
) -> None:
    project = prepared(make_project, _retrieved_store, steps=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:  # less than a state, more than the log
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(StoreWriteError, match=r"step-\d+: .*bytes are needed"):
            customize(project, "shapes", METHOD, At(4, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert customize(project, "shapes", METHOD).counts["first_step"] == 4


def test_training_that_guard_stopped_leaves_no_decoding_process(
    make_project: Make, _retrieved_store: Path
) -> None:
    fields = {"steps": 60, "workers": 1, "augmentation": "timm"}
    project = prepared(make_project, _retrieved_store, **fields)
    before = multiprocessing.active_children()

    def stop() -> None:
        raise TrainingError("stopped")

    with pytest.raises(TrainingError, match="stopped") as raised:
        customize(project, "shapes", METHOD, At(2, stop))
    assert raised.tb and multiprocessing.active_children() == before
