"""Trainings of a project: what they change, what does not change them, and what is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from support.training import FIELDS, losses, records

from react_pipeline.clip import load
from react_pipeline.corpus import CollectedPairs
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import METHODS
from react_pipeline.store import Artifact, InputError, Inputs, TrainingError
from react_pipeline.training import TrainingObserver, customize
from react_pipeline.training import train as train_module

WEIGHTS = "open_clip_model.safetensors"
SHAPES = ("shapes", "gated-image")

Prepare = Callable[..., Project]
Train = Callable[..., Artifact]


@pytest.fixture
def train(prepare: Prepare) -> Train:
    """Trains on the pairs of `shapes`, in a fresh store."""

    def run(method: str = "gated-image", **fields: Any) -> Artifact:
        return customize(prepare(**fields), "shapes", method)

    return run


class Listening(TrainingObserver):
    """Remembers what it was reported, and interrupts a training after a step."""

    def __init__(self, last: int = -1) -> None:
        self.calls: list[object] = []
        self.last = last

    def started(self, inputs: Inputs, first_step: int) -> None:
        self.calls.append((inputs.key, first_step))

    def stepped(self, record: Mapping[str, float]) -> None:
        self.calls.append(record["step"])
        if record["step"] == self.last:
            raise KeyboardInterrupt


def interrupted(project: Project, method: str, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        customize(project, "shapes", method, Listening(step))


@pytest.mark.parametrize(
    "method",
    ["gated-image", "gated-image-control", "gated-both", "locked-text", "locked-image", "full"],
)
def test_each_method_trains_its_own_part_and_nothing_else(
    retrieved_project: Project, method: str
) -> None:
    store = retrieved_project.store
    artifact = customize(retrieved_project, "shapes", method)
    base = load_file(store.current("base_checkpoint", "all").file(WEIGHTS))
    trained = load_file(artifact.file(WEIGHTS))
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    added = trained.keys() - base.keys()
    images = any(name.startswith("visual.") for name in changed)
    texts = any(name.startswith("transformer.") for name in changed)
    assert texts == (method in ("gated-both", "full", "locked-image"))
    assert images == (method in ("locked-text", "full"))
    assert texts or images or changed <= {"logit_scale"}
    assert len(added) == 28 * method.startswith("gated")
    assert all(trained[name] != 0 for name in added if "alpha" in name)
    counts = artifact.counts
    assert counts["step0_max_difference"] == 0
    assert counts["trainable_parameters"] < counts["parameters"] or method == "full"
    pairs = "control_set" if method.endswith("-control") else "retrieved_set"
    assert set(artifact.parents) == {"base_checkpoint", pairs}
    assert counts["pairs"] == store.current("retrieved_set", "shapes").counts["pairs"] > 0
    load(artifact.path)


def test_a_linear_head_reads_vectors_and_decodes_no_image(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(CollectedPairs, "decoded")
    observer = Listening()
    customize(prepare(), "shapes", "linear-head", observer)
    assert observer.calls == [("shapes/linear-head", 0), 0, 1, 2, 3]


def test_a_head_whose_last_step_overflows_is_not_published(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = type(METHODS["linear-head"])
    fit = kind.fit

    def overflowing(*options: Any) -> Any:
        head, counts = fit(*options)
        return head._replace(vectors=head.vectors * torch.inf), counts

    monkeypatch.setattr(kind, "fit", overflowing)
    with pytest.raises(TrainingError, match="head is not finite"):
        train("linear-head")


def test_kept_tokens_stand_in_for_images(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, seen = CollectedPairs.decoded, Counter[int]()

    def counted(pairs: CollectedPairs, position: int, **options: Any) -> Any:
        seen[position] += 1
        return decode(pairs, position, **options)

    monkeypatch.setattr(CollectedPairs, "decoded", counted)
    assert train(steps=12, workers=0).counts["prefix_kept"]
    assert max(seen.values()) <= 3, seen  # 12 steps of 8 take each of 24 pairs four times


def test_losses_fall_and_the_best_held_out_point_is_taken(train: Train) -> None:
    fields = {"steps": 60, "learning_rate": 3e-3, "batch_size": 16, "warmup_steps": 3}
    artifact = train(**fields, held_out_fraction=0.3, interpolation="held-out")
    curve = losses(artifact)
    assert sum(curve[-10:]) < 0.95 * sum(curve[:10])
    counts = artifact.counts
    assert counts["held_out_before"].keys() == counts["held_out_after"].keys()
    scores = counts["interpolation_scores"]
    assert scores[str(counts["interpolation"])] == max(scores.values())


def test_training_choices_change_the_training(train: Train) -> None:
    choices: list[dict[str, Any]] = [
        *({"loss": loss} for loss in ("infonce", "unicl")),
        {"augmentation": "timm"},
        {"held_out_fraction": 0.3},
    ]
    assert len({tuple(losses(train(**fields))) for fields in choices}) == len(choices)


@pytest.mark.parametrize(
    ("method", "fields", "changed", "tolerance"),
    [
        ("gated-image", {}, {"keep_prefix": False}, 1e-5),
        *(("locked-image", {"precision": one}, {"keep_prefix": False}, 1e-6)
          for one in ("fp32", "bf16")),
        *((method, {"learning_rate": 1e-3}, {"accumulation": 3}, 1e-4)
          for method in ("gated-image", "full", "locked-image")),
        *(("gated-image", {"augmentation": "timm", "workers": 1},
           {"workers": workers, "activation_checkpointing": True}, 0) for workers in (0, 2)),
        ("full", {"augmentation": "timm"}, {"activation_checkpointing": True}, 0),
        *(pytest.param(method, {}, {"compile": True}, 1e-4, marks=[pytest.mark.slow,
            pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs it")])
          for method in ("gated-image", "locked-text")),
    ],
)  # fmt: skip
def test_speed_memory_and_precision_take_the_same_steps(
    train: Train, method: str, fields: dict[str, Any], changed: dict[str, Any], tolerance: float
) -> None:
    reference = losses(train(method, **fields))
    assert losses(train(method, **{**fields, **changed})) == pytest.approx(
        reference, rel=tolerance, abs=0
    )


def test_what_does_not_fit_the_disk_is_computed_at_each_step(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.training.kept.MAX_DISK_FRACTION", 0)
    assert not train().counts["prefix_kept"]


@pytest.mark.parametrize(
    ("method", "fields", "named"),
    [
        ("gated-imge", {}, "gated-image"),
        ("gated-image", {"loss": "sigmoid"}, "logit bias"),
        *((method, {"interpolation": "held-out", "held_out_fraction": 0.0}, "held_out_fraction")
          for method in ("gated-image", "linear-head")),
    ],
)  # fmt: skip
def test_what_cannot_train_is_refused_before_it_begins(
    prepare: Prepare, method: str, fields: dict[str, Any], named: str
) -> None:
    observer = Listening()
    with pytest.raises(InputError, match=named):
        customize(prepare(**fields), "shapes", method, observer)
    assert not observer.calls


@pytest.mark.parametrize(
    ("method", "fraction"), [("linear-head", 0.5), ("ncm", 0.5), ("gda", 0.01)]
)
def test_the_default_of_a_head_needs_no_held_out_pairs(
    train: Train, method: str, fraction: float
) -> None:
    counts = train(method, held_out_fraction=0.0).counts  # as a tenth of nine pairs
    assert (counts["interpolation"], counts["interpolation_scores"]) == (fraction, {})


@pytest.mark.parametrize(
    ("method", "place", "advice"),
    [
        ("gated-image", "training.step.TrainingStep.take", "16: about .* pairs fit.*; raise"),
        ("gated-image", "training.train.keep_tokens", "steps of the training; end what else"),
        ("linear-head", "extensions.methods.head_steps.ClassSamples.draw", "batch_size 16; lower"),
    ],
)
def test_memory_that_runs_out_is_reported_with_what_to_do(
    train: Train, monkeypatch: pytest.MonkeyPatch, method: str, place: str, advice: str
) -> None:
    monkeypatch.setattr(f"react_pipeline.{place}", lambda *_, **__: torch.empty(1 << 60))
    with pytest.raises(TrainingError, match=f"out of memory .*{advice}"):
        train(method, batch_size=16)


def test_epochs_become_steps(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**FIELDS, "epochs": 2, "warmup_steps": 0.25}
    del fields["steps"]
    monkeypatch.setattr("support.training.FIELDS", fields)
    project, observer = prepare(), Listening()
    assert "steps" not in resolve(project, "customized_checkpoint", "shapes/full").config
    interrupted(project, "lora-both", 4)
    counts = customize(project, "shapes", "lora-both", observer).counts
    steps = 2 * ((counts["pairs"] - counts["held_out_pairs"]) // 8)
    assert counts["steps"] == steps
    assert observer.calls == [("shapes/lora-both", 4), *range(4, steps)]


def test_training_whose_publication_fails_does_not_start_again(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, killed = prepare(), Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("react_pipeline.store.store.with_digest", killed)
        customize(project, *SHAPES)
    monkeypatch.setattr(train_module, "_take_steps", killed)
    assert len(records(customize(project, *SHAPES))) == 4
    assert not list((project.config.store / ".scratch").glob("*"))


def test_a_training_with_other_batches_starts_again(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = prepare(steps=8, held_out_fraction=0.3)
    interrupted(project, "gated-image", 6)
    # As with another number of processes among few pairs.
    monkeypatch.setattr("react_pipeline.training.train.fit_batch_size", lambda *_: 6)
    interrupted(project, "gated-image", 4)
    builds = (project.config.store / ".scratch").glob("*/*")
    newest = max(builds, key=lambda path: path.stat().st_mtime)
    assert {path.name for path in newest.glob("step-*")} == {"step-000000002", "step-000000004"}
    artifact = customize(project, *SHAPES)
    assert artifact.counts["first_step"] == 4
    assert [record["step"] for record in records(artifact)] == list(range(8))


def test_a_training_that_skipped_all_is_not_published_later(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = prepare(precision="fp16")
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda *_: torch.tensor(torch.inf))
    for _ in range(2):
        with pytest.raises(TrainingError, match="skipped every step"):
            customize(project, *SHAPES)
    assert project.store.keys("customized_checkpoint") == []
