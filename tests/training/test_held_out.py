"""Held-out pairs: which ones, and recall against a plain count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from support.pairs import DrawnPairs
from torch import Tensor

from react_pipeline.store import TrainingError
from react_pipeline.training import choose_fraction, held_out, split_held_out
from react_pipeline.training.held_out import image_text_recall


def pairs(**counts: int) -> DrawnPairs:
    """As many pairs of each class as wanted, mixed."""
    classes = [name for name, count in counts.items() for _ in range(count)]
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    return DrawnPairs(
        [("circle", "red")] * len(classes), classes=[classes[position] for position in order]
    )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5])
def test_the_held_out_fraction_leaves_every_pair_on_one_side(fraction: float) -> None:
    given = pairs(circle=20, square=20, cross=20)
    trained, apart = split_held_out(given, fraction, seed=0)
    assert len(apart) == int(fraction * 60)
    both = torch.cat([trained, apart])
    assert torch.equal(both.sort().values, torch.arange(60))
    assert all(torch.equal(one, one.sort().values) for one in (trained, apart))


def test_no_class_loses_its_last_pair() -> None:
    given = pairs(circle=1, square=1, cross=2, triangle=12)
    for seed in range(20):
        trained, apart = split_held_out(given, 0.5, seed)
        assert len(apart) == 8
        left = Counter(given.labels[position] for position in trained.tolist())
        assert set(left) == {"circle", "square", "cross", "triangle"}
    single = DrawnPairs([("circle", "red")] * 6, classes=list("abcdef"))
    assert len(split_held_out(single, 0.5, seed=0)[1]) == 0


def test_the_seed_alone_decides_and_a_cap_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    given = pairs(circle=30, square=30)
    first, again, other = (split_held_out(given, 0.3, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    monkeypatch.setattr(held_out, "MAX_HELD_OUT", 7)
    assert len(split_held_out(given, 0.5, seed=0)[1]) == 7


def vectors(count: int) -> tuple[Tensor, Tensor]:
    """Images near their texts, so that recall is neither 0 nor 1."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(count, 8, generator=generator)
    images = texts + 1.5 * torch.randn(count, 8, generator=generator)
    return functional.normalize(images, dim=1), functional.normalize(texts, dim=1)


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
    # One and the same text is nearest to every image: that is chance.
    assert recall["r1_image_to_text"] <= 1 / 60 + 1e-6
    assert recall["r10_image_to_text"] <= 10 / 60 + 1e-6


@pytest.mark.parametrize(
    ("score", "best"),
    [
        (lambda fraction: -abs(fraction - 0.25), 0.25),
        (lambda fraction: 0.5, 1.0),
        (lambda fraction: min(fraction, 0.5), 1.0),
        (lambda fraction: -fraction, 0.0),
        (lambda fraction: float("nan") if fraction > 0.5 else fraction, 0.5),
    ],
    ids=["the best", "all equal", "equal from the middle on", "the base", "not finite"],
)
def test_the_best_fraction_wins_and_ties_go_to_the_larger(
    score: Callable[[float], float], best: float
) -> None:
    fraction, scores = choose_fraction("held-out", score)
    assert fraction == best
    assert list(scores) == list(held_out.GRID)


def test_scores_that_are_no_numbers_choose_nothing() -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        choose_fraction("held-out", lambda fraction: float("nan"))
