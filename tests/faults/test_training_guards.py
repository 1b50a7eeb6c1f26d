"""FAULTS 27: trainings that go wrong stop, publish nothing, keep their last good states and say
what to do.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.drawings import COLOURS, SHAPES
from support.methods import model_method
from support.pairs import DrawnPairs
from support.training import train_on

from react_pipeline.clip.model import Clip, load
from react_pipeline.project.project import Project
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.store import Scratch
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import TrainingError
from react_pipeline.training import guards, save_state
from react_pipeline.training.customization import customize
from react_pipeline.training.step import TrainingStep

Make = Callable[..., Project]


class Recorder:
    """Remembers what it is reported."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.errors: list[BaseException] = []

    def started(self, inputs: Inputs, first_step: int) -> None:
        self.steps.clear()

    def stepped(self, record: Any) -> None:
        self.steps.append(record["step"])

    def failed(self, error: BaseException) -> None:
        self.errors.append(error)


def prepared(make_project: Make, store: Path, **fields: Any) -> Project:
    defaults = {"last_k_layers": 2, "batch_size": 8, "augmentation": "none", "workers": 0, **fields}
    project = make_project(customization={"defaults": defaults})
    shutil.copytree(store, project.config.store, dirs_exist_ok=True)
    return project


def states(root: Path) -> list[Path]:
    return sorted(root.rglob("step-*"))


@pytest.mark.parametrize("method", ["gated-image", "locked-image"])
def test_an_absurd_learning_rate_stops_before_publication(
    make_project: Make, _retrieved_store: Path, method: str
) -> None:
    # It rises by 0.2 a step: the first steps are wild, and one of the next throws the logit scale
    # away.
    fields = {"learning_rate": 4.0, "warmup_steps": 20, "steps": 40, "checkpoint_every": 1}
    project = prepared(make_project, _retrieved_store, **fields, held_out_fraction=0.0)
    reported = Recorder()
    with pytest.raises(
        TrainingError, match=r"at step \d+.*lower learning_rate.*Nothing was published"
    ) as stopped:
        customize(project, "shapes", method, reported)
    assert reported.errors == [stopped.value]
    assert project.store.keys("customized_checkpoint") == []
    assert not (project.config.store / "customized_checkpoint").exists()
    done = len(reported.steps)
    assert 2 <= done < 20
    # The newest states, none of them of the step that failed.
    found = states(project.config.store / ".scratch")
    assert [path.name for path in found] == [f"step-{step:09d}" for step in (done - 1, done)]
    trained = torch.load(found[-1] / "state.pt", weights_only=True)["trained"]
    assert all(torch.isfinite(weights).all() for weights in trained.values())


def test_after_better_learning_rate_is_set_it_trains_from_start(
    make_project: Make, _retrieved_store: Path
) -> None:
    absurd = {"learning_rate": 10.0, "warmup_steps": 10, "steps": 12, "checkpoint_every": 1}
    with pytest.raises(TrainingError):
        customize(prepared(make_project, _retrieved_store, **absurd), "shapes", "gated-image")
    mended = prepared(make_project, _retrieved_store, **{**absurd, "learning_rate": 1e-3})
    artifact = customize(mended, "shapes", "gated-image")
    assert artifact.counts["first_step"] == 0
    assert len(artifact.file("metrics.jsonl").read_text().splitlines()) == 12
    assert not states(artifact.path)


def trained_with(
    clip: Clip,
    pairs: DrawnPairs,
    project: Project,
    folder: Path,
    *,
    method: str = "locked-text",
    **fields: Any,
) -> dict[str, Any]:
    folder.mkdir()
    plain = {
        "batch_size": 32,
        "warmup_steps": 0,
        "augmentation": "none",
        "workers": 0,
        "checkpoint_every": 1,
    }
    plain["precision"] = "fp32"
    training = TrainingConfig(**{**plain, **fields})
    domain = project.domain("shapes")
    return train_on(model_method(method), clip, pairs, domain, training, folder, staging=folder)


@pytest.fixture
def drawn() -> DrawnPairs:
    return DrawnPairs([(shape, colour) for shape in SHAPES for colour in COLOURS] * 10)


@pytest.mark.slow
@pytest.mark.operations
def test_a_model_that_forgets_is_stopped_by_held_out_pairs(
    tiny_project: Project, tiny_checkpoint: Path, drawn: DrawnPairs, tmp_path: Path
) -> None:
    clip = load(tiny_checkpoint)
    counts = trained_with(clip, drawn, tiny_project, tmp_path / "first", steps=150, learning_rate=1e-3,
                             held_out_fraction=0.3, loss="infonce-captions", method="full")  # fmt: skip
    assert counts["held_out_after"]["r5_text_to_image"] > 0.8
    with pytest.raises(
        TrainingError,
        match=r"collapsed by step \d+.*of 48 held-out pairs fell.*lower learning_rate",
    ):
        # The rate rises by 0.002 a step, so some states are good.
        trained_with(clip, drawn, tiny_project, tmp_path / "second", steps=200, learning_rate=0.4,
                     warmup_steps=200, held_out_fraction=0.3)  # fmt: skip
    kept = states(tmp_path / "second")
    assert len(kept) == 2
    # The step that was found to have collapsed is not kept.
    steps = (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()
    assert int(kept[-1].name.removeprefix("step-")) == len(steps) - 1


def test_few_held_out_pairs_count_as_few(
    tiny_project: Project,
    tiny_checkpoint: Path,
    drawn: DrawnPairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []
    whole = guards.require_no_collapse

    def counting(step: int, base: Any, now: Any, pairs: int) -> None:
        counted.append(pairs)
        whole(step, base, now, pairs)

    monkeypatch.setattr("react_pipeline.training.train.require_no_collapse", counting)
    few = DrawnPairs([(shape, colour) for shape in SHAPES for colour in COLOURS] * 2)
    trained_with(load(tiny_checkpoint), few, tiny_project, tmp_path / "few", steps=6, learning_rate=1e-3,
                 checkpoint_every=2, held_out_fraction=0.2)  # fmt: skip
    assert counted == [6, 6, 6, 6]  # after two steps, four and six, and at the end


def test_only_the_newest_states_are_kept(
    tiny_project: Project, tiny_checkpoint: Path, drawn: DrawnPairs, tmp_path: Path
) -> None:
    trained_with(load(tiny_checkpoint), drawn, tiny_project, tmp_path / "kept", steps=9, learning_rate=1e-3,
                 checkpoint_every=2, method="gated-image")  # fmt: skip
    assert [path.name for path in states(tmp_path)] == [f"step-{step:09d}" for step in (6, 8)]
    records = [
        json.loads(line) for line in (tmp_path / "kept" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [record["step"] for record in records] == list(range(9))


def test_a_state_that_cannot_be_written_keeps_the_one_before(
    tiny_project: Project,
    tiny_checkpoint: Path,
    drawn: DrawnPairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = save_state

    def full(content: dict[str, Any], scratch: Scratch) -> None:
        if content["step"] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(content, scratch)

    monkeypatch.setattr("react_pipeline.training.train.save_state", full)
    with pytest.raises(OSError, match="No space left"):
        trained_with(
            load(tiny_checkpoint),
            drawn,
            tiny_project,
            tmp_path / "full",
            steps=4,
            learning_rate=1e-3,
        )
    assert [path.name for path in states(tmp_path / "full")] == ["step-000000001"]


def test_fp16_training_that_skips_every_step_publishes_nothing(
    tiny_project: Project, tiny_checkpoint: Path, drawn: DrawnPairs, tmp_path: Path
) -> None:
    def broken(method: str, steps: int) -> None:
        clip = load(tiny_checkpoint)
        # As an overflow in half precision: the loss is finite, one gradient is not.
        clip.model.visual.class_embedding.register_hook(lambda gradient: gradient * float("nan"))
        trained_with(clip, drawn, tiny_project, tmp_path / f"{steps}", steps=steps, precision="fp16", method=method,
                     learning_rate=1e-4)  # fmt: skip

    with pytest.raises(TrainingError, match="skipped every step.*Nothing was published"):
        broken("locked-text", 3)
    with pytest.raises(
        TrainingError, match="31 steps in a row, up to step 30.*Nothing was published"
    ):
        broken("locked-text", 40)


def test_weights_that_end_up_non_finite_are_not_published(
    tiny_project: Project,
    tiny_checkpoint: Path,
    drawn: DrawnPairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = TrainingStep.take

    def overflowing(self: TrainingStep, number: int, *rest: Any, **options: Any) -> Any:
        values = take(self, number, *rest, **options)
        if number == 1:  # the last step, whose loss was finite: only its update overflows
            with torch.no_grad():
                self._model.visual.proj[0, 0] = float("inf")
        return values

    monkeypatch.setattr(TrainingStep, "take", overflowing)
    with pytest.raises(TrainingError, match="trained weights are not finite"):
        trained_with(load(tiny_checkpoint), drawn, tiny_project, tmp_path / "run", steps=2, learning_rate=1e-4,
                     held_out_fraction=0)  # fmt: skip
