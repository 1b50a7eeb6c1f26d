"""FAULTS 28: trainings killed with SIGKILL in the middle of an epoch, in the settings that make
resuming hard.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import write_project
from support.processes import killed, train_until_killed
from support.training import FIELDS, records
from torch import Tensor

from react_pipeline.project.project import Project
from react_pipeline.store import Scratch
from react_pipeline.store.errors import TrainingError
from react_pipeline.training import kept
from react_pipeline.training.customization import customize

STEPS = 14
"""So many that fp16 has found its loss scale and some steps are taken: on this model the first
eight are skipped.
"""
PLAIN = {**FIELDS, "steps": STEPS}
HARD: dict[str, Any] = {
    **PLAIN,
    # Every step sees other views of the images, and a loss scale that moves.
    **{"augmentation": "timm", "loss": "infonce-masked", "precision": "fp16"},
    **{"accumulation": 2, "workers": 2, "learning_rate": 2e-3},
}
METHOD = "gated-image"


@dataclass(frozen=True)
class Killed:
    """Projects whose trainings were killed."""

    hard: Project
    kept: Project
    uninterrupted: Project


@pytest.fixture(scope="module")
def _killed(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    _retrieved_store: Path,
) -> Killed:
    root = tmp_path_factory.mktemp("killed")

    def made(name: str, fields: dict[str, Any], store: Path) -> Project:
        (root / name).mkdir()
        project = write_project(
            root / name, tiny_checkpoint, drawings, customization={"defaults": fields}
        )
        shutil.copytree(store, project.config.store)
        return project

    left = Killed(*(made(name, fields, _retrieved_store) for name, fields in
                    (("hard", HARD), ("kept", PLAIN), ("uninterrupted", HARD))))  # fmt: skip
    for project, step in ((left.hard, 3), (left.hard, 7), (left.kept, 5)):
        killed(train_until_killed, project.path, step)
    return left


@pytest.fixture
def copied(_killed: Killed, tmp_path: Path) -> Callable[[Project], Project]:
    """Makes a copy of a killed project, as each test goes on in another way."""

    def copy(project: Project) -> Project:
        shutil.copytree(project.path.parent, tmp_path / "copy")
        return Project.load(tmp_path / "copy" / "pipeline.yaml")

    return copy


def scratch(project: Project) -> Path:
    (found,) = (project.config.store / ".scratch").glob("customized_checkpoint*/*")
    return found


def with_fields(
    project: Project, tiny_checkpoint: Path, drawings: Path, fields: dict[str, Any]
) -> Project:
    return write_project(
        project.path.parent, tiny_checkpoint, drawings, customization={"defaults": fields}
    )


@pytest.mark.slow
@pytest.mark.operations
def test_killed_twice_in_mid_epoch_every_record_is_the_same(
    _killed: Killed, copied: Callable[[Project], Project]
) -> None:
    project = copied(_killed.hard)
    assert not (project.config.store / "customized_checkpoint").exists()
    resumed, whole = (
        customize(project, "shapes", METHOD),
        customize(_killed.uninterrupted, "shapes", METHOD),
    )
    assert (resumed.counts["first_step"], whole.counts["first_step"]) == (6, 0)
    per_epoch = (whole.counts["pairs"] - whole.counts["held_out_pairs"]) // HARD["batch_size"]
    assert per_epoch > 1
    assert 2 % per_epoch or 6 % per_epoch, "one state at least lies within an epoch"
    for name in (
        "step",
        "loss",
        "gradient_norm",
        "logit_scale",
        "learning_rate",
        "gate_attn_1",
        "gate_dense_0",
    ):
        assert [line.get(name) for line in records(resumed)] == [
            line.get(name) for line in records(whole)
        ], name
    assert 0 < whole.counts["skipped_steps"] < STEPS
    weights = "open_clip_model.safetensors"
    assert resumed.file(weights).read_bytes() == whole.file(weights).read_bytes()
    assert len({record["loss"] for record in records(whole)}) == STEPS
    assert not list(project.config.store.glob(".scratch/*"))


@pytest.mark.slow
@pytest.mark.operations
def test_kept_tokens_outlive_the_kill(
    _killed: Killed, copied: Callable[[Project], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copied(_killed.kept)
    (tokens,) = scratch(project).glob(f"{kept.TOKENS}-*")
    assert tokens.stat().st_size > 0
    own = kept.kept_rows

    def unwanted(_parts: object) -> Iterator[Tensor]:
        raise AssertionError("computed a second time")
        yield

    def kept_rows(scratch: Scratch, name: str, shape: Any, _make: object, *rest: Any) -> Tensor:
        return own(scratch, name, shape, unwanted, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kept, "kept_rows", kept_rows)
    artifact = customize(project, "shapes", METHOD)
    assert artifact.counts["first_step"] == 4
    assert artifact.counts["prefix_kept"]
    assert len(records(artifact)) == STEPS


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-3}, {"seed": 1}, {"last_k_layers": 1}], ids=str
)
def test_another_checkpoint_never_resumes_from_this_state(
    _killed: Killed,
    copied: Callable[[Project], Project],
    tiny_checkpoint: Path,
    drawings: Path,
    change: dict[str, Any],
) -> None:
    project = copied(_killed.kept)
    left = scratch(project)
    changed = with_fields(project, tiny_checkpoint, drawings, {**PLAIN, **change})
    assert customize(changed, "shapes", METHOD).counts["first_step"] == 0
    assert sorted(path.name for path in left.glob("step-*")) == [
        "step-000000002",
        "step-000000004",
    ]


def test_what_changes_only_the_speed_resumes(
    _killed: Killed, copied: Callable[[Project], Project], tiny_checkpoint: Path, drawings: Path
) -> None:
    project = copied(_killed.kept)
    faster = {**PLAIN, "workers": 1, "accumulation": 3, "checkpoint_every": 3, "keep_prefix": False}
    artifact = customize(with_fields(project, tiny_checkpoint, drawings, faster), "shapes", METHOD)
    assert artifact.counts["first_step"] == 4
    assert [record["step"] for record in records(artifact)] == list(range(STEPS))


def test_a_run_that_a_guard_stops_after_a_kill_keeps_its_state(
    _killed: Killed, copied: Callable[[Project], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    from react_pipeline.training import losses

    project = copied(_killed.kept)
    whole = losses.contrastive_loss
    monkeypatch.setattr(
        losses,
        "contrastive_loss",
        lambda *args, **options: whole(*args, **options) * float("nan"),
    )
    with pytest.raises(TrainingError, match="loss is nan at step 4"):
        customize(project, "shapes", METHOD)
    monkeypatch.undo()
    assert customize(project, "shapes", METHOD).counts["first_step"] == 4
