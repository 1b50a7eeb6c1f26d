"""Training a linear head on retrieved pairs, and joining it with the zero-shot head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.drawings import COLOURS
from support.pairs import DrawnPairs
from torch import Tensor

from react_pipeline.clip.class_head import ClassHead
from react_pipeline.clip.classifier import zero_shot_head
from react_pipeline.clip.model import Clip, load
from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.extensions.methods.head import (
    class_accuracy,
    train_head,
)
from react_pipeline.extensions.methods.head_samples import PairVectors
from react_pipeline.extensions.methods.linear_head import LinearHead
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.control import draw_control
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.settings.config import DomainConfig
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import InputError, RetrievalError, TrainingError
from react_pipeline.training.held_out import GRID, split_held_out
from react_pipeline.training.log import TrainingObserver

TEMPLATES = ("a {} drawing",)
INPUTS = Inputs("customized_checkpoint", "colours/linear-head", {}, {}, "1")
DOMAIN = DomainConfig(slug="colours", classes=COLOURS, templates=TEMPLATES)
TRAINING: Mapping[str, Any] = {
    "learning_rate": 0.01, "steps": 60, "warmup_steps": 5, "batch_size": 32, "held_out_fraction": 0.25, "workers": 0
}  # fmt: skip
DRAWINGS = [
    (shape, colour)
    for _ in range(4)
    for shape in ("circle", "square", "triangle")
    for colour in COLOURS
]


@pytest.fixture
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


@pytest.fixture
def coloured() -> DrawnPairs:
    """48 pairs, 12 a colour."""
    return DrawnPairs(DRAWINGS, classes=[colour for _, colour in DRAWINGS])


def fit(
    clip: Clip,
    pairs: Any,
    vectors: Any,
    domain: DomainConfig,
    training: TrainingConfig,
    directory: Path,
    observer: TrainingObserver,
    near: float = 1.01,
) -> dict[str, Any]:
    """Counts of a training on pairs that no store holds."""
    customization: Any = SimpleNamespace(
        domain=domain,
        pairs=pairs,
        training=training,
        observer=observer,
        inputs=INPUTS,
        project=SimpleNamespace(
            retrieval=lambda _slug: SimpleNamespace(near_duplicate_similarity=near)
        ),
    )
    return train_head(LinearHead(), customization, clip, vectors, directory)


def train(
    clip: Clip, pairs: Any, directory: Path, domain: DomainConfig = DOMAIN, **fields: Any
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Counts, tensors and `head.json` of a training."""
    directory.mkdir(exist_ok=True)
    training = TrainingConfig(**{**TRAINING, **fields})
    counts = fit(clip, pairs, pairs.vectors(clip), domain, training, directory, TrainingObserver())
    return (
        counts,
        load_file(directory / "head.safetensors"),
        json.loads((directory / "head.json").read_text()),
    )


def accuracy(counts: dict[str, Any], when: str) -> float:
    return float(counts[f"held_out_{when}"]["class_accuracy"])


def zero_shot(clip: Clip) -> Tensor:
    return zero_shot_head(clip, COLOURS, TEMPLATES)


def test_a_head_learns_what_the_zero_shot_head_does_not_know(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path
) -> None:
    counts, tensors, _ = train(clip, coloured, tmp_path, interpolation=1.0)
    assert counts["final_loss"] < counts["first_loss"]
    # The text tower is random, so colours are guessed; its image tower tells them apart.
    assert accuracy(counts, "before") < 0.5
    assert accuracy(counts, "after") > 0.7
    assert counts["step0_max_difference"] < 1e-6
    _, held_out = split_held_out(coloured, 0.25, 0)
    positions = [int(position) for position in held_out]
    images = coloured.vectors(clip).images[positions]
    truth = torch.tensor([COLOURS.index(coloured.labels[position]) for position in positions])
    assert counts["held_out_pairs"] == len(positions) > 0
    assert accuracy(counts, "before") == class_accuracy(images @ zero_shot(clip), truth)
    assert accuracy(counts, "after") == class_accuracy(images @ tensors["head"], truth)


def test_held_out_pairs_are_not_trained_on(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path
) -> None:
    _, held_out = split_held_out(coloured, 0.25, 0)
    texts = list(coloured.texts)
    for position in held_out:
        texts[int(position)] = "something else altogether"
    spoiled = DrawnPairs(DRAWINGS, captions=texts, classes=coloured.labels)
    _, ours, about = train(clip, coloured, tmp_path / "ours")
    _, theirs, _ = train(clip, spoiled, tmp_path / "theirs")
    assert torch.equal(ours["trained"], theirs["trained"])
    assert sum(sample["pairs"] for sample in about["samples"]) == len(coloured) - len(held_out)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_head_is_joined_with_the_zero_shot_head(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path, fraction: float
) -> None:
    _, tensors, about = train(clip, coloured, tmp_path, interpolation=fraction)
    start, trained, head = zero_shot(clip), tensors["trained"], tensors["head"]
    assert head.shape == (clip.dimension, 4) and head.dtype == torch.float32
    torch.testing.assert_close(head.norm(dim=0), torch.ones(4))
    torch.testing.assert_close(trained.norm(dim=0), torch.ones(4))
    if fraction == 0.5:
        between = (start + trained) / 2
        torch.testing.assert_close(head, between / between.norm(dim=0))
    else:
        assert torch.equal(head, trained if fraction else start)
    assert not torch.allclose(trained, start, atol=0.05)
    assert (about["interpolation"], about["scores"]) == (fraction, {})


def test_how_far_to_go_can_be_chosen_on_the_held_out_pairs(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path
) -> None:
    counts, _, about = train(clip, coloured, tmp_path, interpolation="held-out")
    scores = {float(fraction): score for fraction, score in about["scores"].items()}
    assert tuple(scores) == GRID
    best = max(scores.values())
    assert (
        counts["interpolation"]
        == about["interpolation"]
        == max(at for at in GRID if scores[at] == best)
    )
    assert counts["interpolation_scores"] == about["scores"]
    assert accuracy(counts, "after") == pytest.approx(best, abs=1e-6)
    assert accuracy(counts, "before") == pytest.approx(scores[0.0], abs=1e-6)
    assert best > scores[0.0]
    with pytest.raises(InputError, match="held_out_fraction"):
        train(clip, coloured, tmp_path / "none", interpolation="held-out", held_out_fraction=0.0)


def test_near_copies_of_trained_images_are_not_held_out(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path
) -> None:
    vectors = coloured.vectors(clip)
    trained_on, held_out = split_held_out(coloured, 0.25, 0)
    noise = torch.randn(vectors.images.shape, generator=torch.Generator().manual_seed(0))
    images = noise / noise.norm(dim=1, keepdim=True)
    images[held_out[:3]] = images[trained_on[:3]]
    training = TrainingConfig(**{**TRAINING, "steps": 2})
    for copies, near, dropped in (images, 0.98, 3), (images, 1.01, 0), (images[:1], 0.98, 0):
        of = replace(vectors, images=copies.expand(len(coloured), -1))
        counts = fit(clip, coloured, of, DOMAIN, training, tmp_path, TrainingObserver(), near)
        assert counts["held_out_near_copies"] == dropped
        assert counts["held_out_pairs"] == len(held_out) - dropped


def test_a_class_without_pairs_keeps_its_zero_shot_column(clip: Clip, tmp_path: Path) -> None:
    drawings = [drawing for drawing in DRAWINGS if drawing[1] != "green"]
    pairs = DrawnPairs(drawings, classes=[colour for _, colour in drawings])
    counts, tensors, about = train(clip, pairs, tmp_path)
    assert counts["classes_without_pairs"] == ["green"]
    green = COLOURS.index("green")
    assert about["samples"][green] == {"class": "green", "pairs": 0, "prompts": 1}
    for head in tensors.values():
        same = [torch.equal(head[:, column], zero_shot(clip)[:, column]) for column in range(4)]
        assert same == [colour == "green" for colour in COLOURS]


def test_a_tie_goes_to_the_base_where_a_class_has_no_pairs(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "react_pipeline.extensions.methods.head.class_accuracy", lambda scores, ids: 0.5
    )
    for without, fraction in ("green", 0.0), ("", 1.0):
        drawings = [drawing for drawing in DRAWINGS if drawing[1] != without]
        pairs = DrawnPairs(drawings, classes=[colour for _, colour in drawings])
        counts, _, _ = train(clip, pairs, tmp_path, interpolation="held-out", steps=2)
        assert counts["interpolation"] == fraction


def test_pairs_of_unknown_classes_are_left_out_and_counted(clip: Clip, tmp_path: Path) -> None:
    classes = [
        ("mauve" if number % 6 == 0 else colour) for number, (_, colour) in enumerate(DRAWINGS)
    ]
    counts, _, about = train(clip, DrawnPairs(DRAWINGS, classes=classes), tmp_path, steps=2)
    assert (counts["pairs"], counts["unlabelled_pairs"]) == (48, 8)
    assert counts["held_out_pairs"] + sum(sample["pairs"] for sample in about["samples"]) == 40
    with pytest.raises(RetrievalError, match="retrieved_set"):
        train(clip, DrawnPairs(DRAWINGS, classes=["mauve"] * 48), tmp_path, steps=2)


def test_a_base_whose_features_are_not_finite_trains_nothing(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path
) -> None:
    with torch.no_grad():
        clip.model.visual.proj.fill_(float("nan"))
    with pytest.raises(TrainingError, match="nan at step 0"):
        train(clip, coloured, tmp_path)
    assert not (tmp_path / "head.safetensors").exists()


def test_column_halfway_between_equal_columns_is_that_column() -> None:
    start, trained = torch.eye(4)[:, :3].contiguous(), torch.eye(4)[:, [0, 2, 2]].contiguous()
    halfway = LinearHead().join(ClassHead(start), ClassHead(trained), 0.5).vectors
    assert torch.equal(halfway[:, [0, 2]], start[:, [0, 2]])
    torch.testing.assert_close(halfway[:, 1], torch.tensor([0, 0.5**0.5, 0.5**0.5, 0]))


class Recorder(TrainingObserver):
    def __init__(self) -> None:
        self.records: list[Mapping[str, float]] = []

    def stepped(self, record: Mapping[str, float]) -> None:
        self.records.append(record)


@pytest.mark.parametrize("stage", ["retrieved_set", "control_set"])
def test_a_head_trains_on_published_pairs_and_logs_each_step(
    indexed_project: Project, clip: Clip, tmp_path: Path, stage: str
) -> None:
    publish_evaluation_set(indexed_project, "colours")
    pairs = retrieve_pairs(indexed_project, "colours")
    if stage == "control_set":
        pairs = draw_control(indexed_project, "colours")
    observer = Recorder()
    training = TrainingConfig(**{**TRAINING, "steps": 7})
    domain = indexed_project.domain("colours")
    found = CollectedPairs(pairs)
    counts = fit(clip, found, PairVectors.read(found), domain, training, tmp_path, observer)
    assert counts["pairs"] == pairs.counts["pairs"]
    assert (counts["unlabelled_pairs"], counts["steps"]) == (0, 7)
    assert counts["trainable_parameters"] == 4 * clip.dimension
    about = json.loads((tmp_path / "head.json").read_text())
    assert about["labels"] == ("retrieval" if stage == "retrieved_set" else "nearest prompt")
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(one["step"], one["loss"]) for one in records] == [
        (one["step"], one["loss"]) for one in observer.records
    ]
    assert (counts["first_loss"], counts["final_loss"]) == (records[0]["loss"], records[-1]["loss"])
