"""FAULTS 27: trainings that go wrong stop, publish nothing, keep their last good states and say
what to do.
"""

from __future__ import annotations

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
from support.training import prepared, train_on

from react_pipeline.clip import load
from react_pipeline.project import Project
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import TrainingError
from react_pipeline.training import TrainingObserver, customize
from react_pipeline.training.step import TrainingStep

Make = Callable[..., Project]


class Recorder(TrainingObserver):
    """Remembers what it is reported."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def stepped(self, record: Any) -> None:
        self.steps.append(record["step"])


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
    ):
        customize(project, "shapes", method, reported)
    assert project.store.keys("customized_checkpoint") == []
    assert not (project.config.store / "customized_checkpoint").exists()
    done = len(reported.steps)
    assert 2 <= done < 20
    # The newest states, none of them of the step that failed.
    found = states(project.config.store / ".scratch")
    assert [path.name for path in found] == [f"step-{step:09d}" for step in (done - 1, done)]
    trained = torch.load(found[-1], weights_only=True)["trained"]
    assert all(torch.isfinite(weights).all() for weights in trained.values())


Trained = Callable[..., dict[str, Any]]


@pytest.fixture
def trained(tiny_project: Project, tiny_checkpoint: Path, tmp_path: Path) -> Trained:
    """Trains a model in memory on drawings, ten or so of each class, in the folder `run`."""

    def train(
        method: str = "locked-text", copies: int = 10, clip: Any = None, **fields: Any
    ) -> Any:
        plain = {"batch_size": 32, "warmup_steps": 0, "learning_rate": 1e-3, "precision": "fp32"}
        plain |= {"augmentation": "none", "workers": 0, "checkpoint_every": 1}
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        pairs = DrawnPairs([(shape, colour) for shape in SHAPES for colour in COLOURS] * copies)
        training, domain = TrainingConfig(**{**plain, **fields}), tiny_project.domain("shapes")
        clip = clip or load(tiny_checkpoint)
        return train_on(model_method(method), clip, pairs, domain, training, folder, staging=folder)

    return train


def logged(folder: Path) -> list[int]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.slow
@pytest.mark.operations
def test_a_model_that_forgets_is_stopped_by_held_out_pairs(
    trained: Trained, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    clip = load(tiny_checkpoint)
    fields = {"steps": 150, "held_out_fraction": 0.3, "loss": "infonce-captions"}
    counts = trained("full", clip=clip, **fields)
    assert counts["held_out_after"]["r5_text_to_image"] > 0.8
    stopped = r"collapsed by step \d+.*of 48 held-out pairs fell.*lower learning_rate"
    with pytest.raises(TrainingError, match=stopped):
        # The rate rises by 0.002 a step, so some states are good.
        fields = {"steps": 200, "learning_rate": 0.4, "warmup_steps": 200}
        trained(clip=clip, held_out_fraction=0.3, **fields)
    kept = states(tmp_path)
    assert len(kept) == 2
    # The step that was found to have collapsed is not kept.
    assert int(kept[-1].name.removeprefix("step-")) == len(logged(tmp_path)) - 1


def test_only_the_newest_states_are_kept(trained: Trained, tmp_path: Path) -> None:
    trained("gated-image", steps=9, checkpoint_every=2)
    assert [path.name for path in states(tmp_path)] == [f"step-{step:09d}" for step in (6, 8)]
    assert logged(tmp_path) == list(range(9))


def test_fp16_training_that_skips_every_step_publishes_nothing(
    trained: Trained, tiny_checkpoint: Path
) -> None:
    clip = load(tiny_checkpoint)
    # As an overflow in half precision: the loss is finite, one gradient is not.
    clip.model.visual.class_embedding.register_hook(lambda gradient: gradient * float("nan"))
    stopped = "31 steps in a row, up to step 30.*Nothing was published"
    with pytest.raises(TrainingError, match=stopped):
        trained(clip=clip, steps=40, precision="fp16")


def test_weights_that_end_up_non_finite_are_not_published(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = TrainingStep.take

    def overflowing(self: TrainingStep, number: int, *rest: Any, **options: Any) -> Any:
        values = take(self, number, *rest, **options)
        if number == 1:  # the last step, whose loss was finite: only its update overflows
            with torch.no_grad():
                self.images.model.visual.proj[0, 0] = float("inf")
        return values

    monkeypatch.setattr(TrainingStep, "take", overflowing)
    with pytest.raises(TrainingError, match="trained weights are not finite"):
        trained(steps=2, held_out_fraction=0)
