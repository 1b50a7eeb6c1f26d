"""Held-out pairs: which ones, and recall against a plain count."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from support.pairs import DrawnPairs
from torch import Tensor
from torch.nn.functional import normalize

from react_pipeline.store import TrainingError
from react_pipeline.training import choose_fraction, held_out, split_held_out
from react_pipeline.training.held_out import image_text_recall


def pairs(**counts: int) -> DrawnPairs:
    """As many pairs of each class as wanted, mixed."""
    classes = list(Counter(counts).elements())
    random.Random(0).shuffle(classes)  # noqa: S311 - classes, not secrets
    return DrawnPairs([("circle", "red")] * len(classes), classes=classes)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5])
def test_the_held_out_fraction_leaves_every_pair_on_one_side(
    fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pairs(circle=20, square=20, cross=20)
    trained, apart = split_held_out(given, fraction, seed=0)
    assert len(apart) == int(fraction * 60)
    assert torch.equal(torch.cat([trained, apart]).sort().values, torch.arange(60))
    again, other = (split_held_out(given, fraction, seed)[1] for seed in (0, 1))
    assert torch.equal(apart, again)
    assert not fraction or not torch.equal(apart, other)
    monkeypatch.setattr(held_out, "MAX_HELD_OUT", 4)
    assert len(split_held_out(given, fraction, seed=0)[1]) == min(4, len(apart))


def test_no_class_loses_its_last_pair() -> None:
    given = pairs(circle=1, square=1, cross=2, triangle=12)
    for seed in range(20):
        trained, apart = split_held_out(given, 0.5, seed)
        assert len(apart) == 8
        assert {given.labels[position] for position in trained} == set(given.labels)
    assert len(split_held_out(pairs(**dict.fromkeys("abcdef", 1)), 0.5, seed=0)[1]) == 0


def vectors(count: int) -> tuple[Tensor, Tensor]:
    """Images near their texts, so that recall is neither 0 nor 1."""
    texts, noise = torch.randn(2, count, 8, generator=torch.Generator().manual_seed(0))
    return normalize(texts + 1.5 * noise), normalize(texts)


def counted(queries: Tensor, gallery: Tensor, ids: Tensor, rank: int) -> float:
    nearest = (queries @ gallery.T).argsort(dim=1, descending=True, stable=True)[:, :rank]
    return float((ids[nearest] == ids[:, None]).any(dim=1).double().mean())


@pytest.mark.parametrize("block", [1, 7, 1_024])
@pytest.mark.parametrize("captions", [40, 11], ids=["all differ", "shared captions"])
def test_recall_equals_a_plain_count_whatever_the_block(
    captions: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "BLOCK", block)
    images, texts = vectors(40)
    ids = torch.arange(40) % captions
    texts = texts[ids]  # equal captions have equal vectors
    recall = image_text_recall(images, texts, ids)
    for rank in (1, 5, 10):
        assert recall[f"r{rank}_image_to_text"] == pytest.approx(counted(images, texts, ids, rank))
        assert recall[f"r{rank}_text_to_image"] == pytest.approx(counted(texts, images, ids, rank))
    assert 0 < recall["r1_image_to_text"] < recall["r10_image_to_text"]


@pytest.mark.parametrize("value", [1.0, float("nan")], ids=["one point", "no numbers"])
def test_a_model_that_maps_everything_alike_finds_nothing(value: float) -> None:
    _, texts = vectors(60)
    images = torch.full_like(texts, value) / 8**0.5
    recall = image_text_recall(images, texts, torch.arange(60))
    assert recall["r10_text_to_image"] == 0
    # The same ten texts are nearest to every image: that is chance.
    assert recall["r10_image_to_text"] <= 10 / 60 + 1e-6


@pytest.mark.parametrize(
    ("given", "best"),
    [
        ([1, 2, 1, 0, 0], 0.25),
        ([0, 0.2, 1, 1, 1], 1.0),
        ([4, 3, 2, 1, 0], 0.0),
        ([0, 1, 2, math.nan, math.nan], 0.5),
    ],
)
def test_the_best_fraction_wins_and_ties_go_to_the_larger(given: list[float], best: float) -> None:
    scores = dict(zip(held_out.GRID, given, strict=True))
    fraction, found = choose_fraction("held-out", scores.__getitem__)
    assert fraction == best
    assert list(found) == list(scores)


def test_scores_that_are_no_numbers_choose_nothing() -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        choose_fraction("held-out", lambda fraction: math.nan)
