"""FAULTS 27, 28: a training that is killed, or that its disk fails, goes on as if it never was; one
that goes wrong stops, publishes nothing, keeps its last good states and says what to do.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import write_project
from support.drawings import COLOURS, SHAPES
from support.methods import model_method
from support.pairs import DrawnPairs
from support.processes import killed, train_until_killed
from support.training import prepared, records, train_on
from torch import Tensor

from react_pipeline.clip import load
from react_pipeline.project import Project
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import CorruptArtifact, Scratch, StoreWriteError, TrainingError
from react_pipeline.training import TrainingObserver, customize, kept
from react_pipeline.training.step import TrainingStep

Make = Callable[..., Project]
METHOD, WEIGHTS = "gated-image", "open_clip_model.safetensors"


HARD: dict[str, Any] = {
    # Every step sees other views of the images, and a loss scale that moves.
    **{"augmentation": "timm", "loss": "unicl", "precision": "fp16"},
    **{"accumulation": 2, "workers": 2, "learning_rate": 2e-3},
    # So many that fp16 has found its loss scale: on this model the first eight are skipped.
    "steps": 14,
}


def test_killed_twice_in_mid_epoch_it_ends_as_if_it_never_was(prepare: Make) -> None:  # 28
    project = prepare(**HARD)
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
    make = partial(write_project, tmp_path_factory.mktemp("killed"), tiny_checkpoint, drawings)
    project = prepared(make, _retrieved_store, steps=8)
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


FASTER = {"workers": 1, "accumulation": 3, "checkpoint_every": 3, "keep_prefix": False}
OTHERS: list[dict[str, Any]] = [{"learning_rate": 1e-3}, {"seed": 1}, {"last_k_layers": 1}]


@pytest.mark.parametrize("change", [FASTER, *OTHERS], ids=str)
def test_only_what_changes_no_more_than_the_speed_resumes(
    left: Resumed, change: dict[str, Any]
) -> None:
    project = left(**change)
    states = scratch(project)
    artifact = customize(project, "shapes", METHOD)
    assert artifact.counts["first_step"] == (4 if change is FASTER else 0)
    assert [record["step"] for record in records(artifact)] == list(range(8))
    if change is not FASTER:
        assert {path.name for path in states.glob("step-*")} == {"step-000000002", "step-000000004"}


class Each(TrainingObserver):
    """Does something after each step, with its number."""

    def __init__(self, act: Callable[[int], object]) -> None:
        self.act = act

    def stepped(self, record: Mapping[str, float]) -> None:
        self.act(int(record["step"]))


def at(step: int, act: Callable[[], object]) -> Each:
    return Each(lambda number: number == step and act())


def test_a_shard_gone_in_mid_epoch_is_named_and_can_be_restored(prepare: Make) -> None:
    fields = {"steps": 60, "workers": 1, "augmentation": "timm"}
    project = prepare(**fields)
    shard = min(project.store.current("retrieved_set", "shapes").path.glob("shards/*.tar"))
    aside = shard.with_suffix(".aside")
    with pytest.raises(CorruptArtifact, match=rf"^{shard}.*rematerialize `retrieved_set`[^\n]*$"):
        customize(project, "shapes", METHOD, at(5, lambda: shard.rename(aside)))
    aside.rename(shard)
    # In the same process, whose lock no decoding process may have kept.
    assert 6 <= customize(project, "shapes", METHOD).counts["first_step"] < 60


def test_a_disk_that_takes_no_state_stops_training_cleanly(prepare: Make) -> None:
    project = prepare(steps=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:  # less than a state, more than the log
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(StoreWriteError, match=r"step-\d+: .*bytes are needed"):
            customize(project, "shapes", METHOD, at(4, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert customize(project, "shapes", METHOD).counts["first_step"] == 4


def test_training_that_guard_stopped_leaves_no_decoding_process(prepare: Make) -> None:
    fields = {"steps": 60, "workers": 1, "augmentation": "timm"}
    project = prepare(**fields)
    before = multiprocessing.active_children()

    def stop() -> None:
        raise TrainingError("stopped")

    with pytest.raises(TrainingError, match="stopped") as raised:
        customize(project, "shapes", METHOD, at(2, stop))
    assert raised.tb and multiprocessing.active_children() == before


def states(root: Path) -> list[Path]:
    return sorted(root.rglob("step-*"))


@pytest.mark.parametrize("method", ["gated-image", "locked-image"])
def test_an_absurd_learning_rate_stops_before_publication(prepare: Make, method: str) -> None:
    # It rises by 0.2 a step: the first steps are wild, and one of the next throws the logit scale
    # away.
    fields = {"learning_rate": 4.0, "warmup_steps": 20, "steps": 40, "checkpoint_every": 1}
    project = prepare(**fields, held_out_fraction=0.0)
    steps: list[int] = []
    with pytest.raises(
        TrainingError, match=r"at step \d+.*lower learning_rate.*Nothing was published"
    ):
        customize(project, "shapes", method, Each(steps.append))
    assert project.store.keys("customized_checkpoint") == []
    assert not (project.config.store / "customized_checkpoint").exists()
    done = len(steps)
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
