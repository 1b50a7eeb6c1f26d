"""Training a linear head on retrieved pairs, and joining it with the zero-shot head."""

from __future__ import annotations

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

from react_pipeline.clip.classifier import zero_shot_head
from react_pipeline.clip.model import Clip, load
from react_pipeline.extensions.methods.head import (
    class_accuracy,
    train_head,
)
from react_pipeline.extensions.methods.linear_head import LinearHead
from react_pipeline.settings.config import DomainConfig
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import RetrievalError, TrainingError
from react_pipeline.training.held_out import split_held_out
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
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Counts and tensors of a training."""
    directory.mkdir(exist_ok=True)
    training = TrainingConfig(**{**TRAINING, **fields})
    counts = fit(clip, pairs, pairs.vectors(clip), domain, training, directory, TrainingObserver())
    return counts, load_file(directory / "head.safetensors")


def accuracy(counts: dict[str, Any], when: str) -> float:
    return float(counts[f"held_out_{when}"]["class_accuracy"])


def zero_shot(clip: Clip) -> Tensor:
    return zero_shot_head(clip, COLOURS, TEMPLATES)


def test_a_head_learns_what_the_zero_shot_head_does_not_know(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path
) -> None:
    counts, tensors = train(clip, coloured, tmp_path, interpolation=1.0)
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
    _, ours = train(clip, coloured, tmp_path / "ours")
    _, theirs = train(clip, spoiled, tmp_path / "theirs")
    assert torch.equal(ours["head"], theirs["head"])


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_head_is_joined_with_the_zero_shot_head(
    clip: Clip, coloured: DrawnPairs, tmp_path: Path, fraction: float
) -> None:
    (_, whole), (_, tensors) = (
        train(clip, coloured, tmp_path, interpolation=one) for one in (1.0, fraction)
    )
    start, trained, head = zero_shot(clip), whole["head"], tensors["head"]
    assert head.shape == (clip.dimension, 4) and head.dtype == torch.float32
    torch.testing.assert_close(head.norm(dim=0), torch.ones(4))
    torch.testing.assert_close(trained.norm(dim=0), torch.ones(4))
    if fraction == 0.5:
        between = (start + trained) / 2
        torch.testing.assert_close(head, between / between.norm(dim=0))
    else:
        assert torch.equal(head, trained if fraction else start)
    assert not torch.allclose(trained, start, atol=0.05)


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
    counts, tensors = train(clip, pairs, tmp_path)
    assert counts["classes_without_pairs"] == ["green"]
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
        counts, _ = train(clip, pairs, tmp_path, interpolation="held-out", steps=2)
        assert counts["interpolation"] == fraction


def test_pairs_of_unknown_classes_are_left_out_and_counted(clip: Clip, tmp_path: Path) -> None:
    classes = [
        ("mauve" if number % 6 == 0 else colour) for number, (_, colour) in enumerate(DRAWINGS)
    ]
    counts, _ = train(clip, DrawnPairs(DRAWINGS, classes=classes), tmp_path, steps=2)
    assert (counts["pairs"], counts["unlabelled_pairs"]) == (48, 8)
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
