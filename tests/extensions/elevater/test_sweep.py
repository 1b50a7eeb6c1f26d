"""Which training images are used, and the search for learning rate and weight decay on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from react_pipeline.extensions.elevater.shots import Split, hold_out, sample_shots, split_training
from react_pipeline.extensions.elevater.trainer import (
    LEARNING_RATES,
    WEIGHT_DECAYS,
    Curve,
    Examples,
    Trial,
    adapt,
    sweep,
)
from react_pipeline.store import InputError, TrainingError

Score = Callable[[float, int], float | None]
"""Learning rate and grid point to a score; None is a failure."""


def grid_point(trial: Trial) -> int:
    return WEIGHT_DECAYS.index(trial.weight_decay)


def scored(score: Score) -> Callable[[Trial], Curve]:
    def train_trial(trial: Trial) -> Curve:
        value = score(trial.learning_rate, grid_point(trial))
        return Curve(trial, [] if value is None else [value], value is None)

    return train_trial


def one_after_another(score: Score) -> tuple[float, int, float]:
    """The published search in words: learning rates in turn, and in each the grid, then both
    neighbours by steps.
    """
    best = (0.0, -1, 0.0)
    for learning_rate in np.logspace(-6, -1, 6).tolist():
        peak, height = -1, 0.0
        for step in (16, 8, 4, 2, 1):
            around = [max(peak - step, 0), min(peak + step, 96)]
            for point in range(0, 97, 16) if step == 16 else around:
                if (score(learning_rate, point) or 0.0) > height:
                    peak, height = point, score(learning_rate, point) or 0.0
            if peak < 0:
                break
        if height > best[2]:
            best = (learning_rate, peak, height)
    return best


def bumpy(seed: int, steps: int) -> Score:
    random = np.random.default_rng(seed)
    table = np.convolve(random.random(97 * 6), np.ones(9) / 9, mode="same").reshape(6, 97)
    table = np.round(table * steps) / steps
    broken = random.random((6, 97)) < 0.2
    rates = list(LEARNING_RATES)
    return lambda rate, point: (
        None if broken[rates.index(rate), point] else float(table[rates.index(rate), point])
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [1_000_000, 8])  # a few steps make ties
def test_the_search_is_the_published_one(seed: int, steps: int) -> None:
    assert pytest.approx(np.logspace(-6, 6, 97)) == WEIGHT_DECAYS
    score = bumpy(seed, steps)
    found, _ = sweep(scored(score))
    place = (found.trial.learning_rate, grid_point(found.trial), found.best)
    assert place == one_after_another(score)


def test_failures_never_win_and_are_an_error_if_all_fail() -> None:
    found, failed = sweep(scored(lambda rate, point: None if point >= 48 else 0.0))
    assert (found.best, grid_point(found.trial)) == (0, 0)
    assert failed == 6 * 4
    with pytest.raises(TrainingError, match="all 42 trials"):
        sweep(scored(lambda rate, point: None))


SPLIT = Split(search=np.array([2, 3]), held_out=np.array([0, 1]), final=np.arange(4))


@pytest.mark.parametrize("fails", [False, True])
def test_the_search_sees_no_test_image_and_training_has_both(fails: bool) -> None:
    seen = []

    def train_trial(train, evaluation, trial, *, epochs):
        seen.append((*train.numbers.tolist(), "on", *evaluation.numbers.tolist(), epochs))
        return Curve(trial, [0.2, 0.7], fails and epochs == 50)

    train, test = (Examples(one, one, iter) for one in (torch.arange(4), torch.tensor([9])))
    if fails:
        with pytest.raises(TrainingError, match="1e-06 .* 1e-06: .* finite after 2 of 50"):
            adapt(train_trial, train, test, SPLIT)
    else:
        final, failed = adapt(train_trial, train, test, SPLIT)
        assert (final.best, final.scores[-1], failed) == (0.7, 0.7, 0)
    assert set(seen[:-1]) == {(2, 3, "on", 0, 1, 10)}
    assert seen[-1] == (0, 1, 2, 3, "on", 9, 50)


def test_samples_are_those_of_the_toolkit_and_never_change() -> None:
    """Drawn by `sample_few_shot_subset` of vision-datasets 0.2.17."""
    labels = np.arange(40) % 4
    assert sample_shots(labels, 2, seed=1, n_classes=4).tolist() == [23, 2, 11, 1, 37, 32, 34, 20]
    chances = np.linspace(0.05, 0.6, 6)
    several = (np.random.default_rng(0).random((60, 6)) < chances).astype(np.uint8)
    several[::10] = 0
    drawn = "12 33 29 36 44 47 5 41 9 18 37 25"
    assert " ".join(map(str, sample_shots(several, 2, 0, n_classes=6))) == drawn
    # A class with too few images gives all of them.
    assert sorted(sample_shots(np.array([0, 1, 2, 3]), 20, seed=0, n_classes=5)) == [0, 1, 2, 3]


def test_a_fifth_of_each_class_is_held_out_from_the_front() -> None:
    labels = np.array([1] * 5 + [0] * 6 + [1] * 5)
    trained, held = hold_out(labels)
    assert held.tolist() == [0, 1, 5, 6]
    assert trained.tolist() == [2, 3, 4, *range(7, 16)]


def test_the_multilabel_cover_takes_the_lowest_class_first() -> None:
    labels = np.array([[0, 1], [1, 1], [1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [1, 0]])
    # Class 0 (5 images) wants 1: image 1, which serves class 1 (4 images, wants 1) too.
    assert hold_out(labels)[1].tolist() == [1]
    labels[1] = [1, 0]
    assert hold_out(labels)[1].tolist() == [1, 0]


def test_the_final_training_uses_the_held_out_part_too() -> None:
    labels = np.random.default_rng(0).integers(4, size=200)
    full = split_training(labels, n_classes=4)
    whole = [*full.search.tolist(), *full.held_out.tolist()]
    assert full.final.tolist() == sorted(whole) == list(range(200))
    few = split_training(labels, n_classes=4, shots=5, seed=2)
    assert few.final.tolist() == sample_shots(labels, 5, 2, n_classes=4).tolist()
    assert np.bincount(labels[few.held_out]).tolist() == [1] * 4
    assert np.bincount(labels[few.search]).tolist() == [4] * 4


def test_patch_camelyon_searches_a_sample_and_trains_on_all() -> None:
    labels = np.arange(24_000) % 2
    split = split_training(labels, n_classes=2, dataset="patch-camelyon")
    assert np.bincount(labels[split.search]).tolist() == [8_000] * 2
    assert np.bincount(labels[split.held_out]).tolist() == [2_000] * 2
    assert len(split.final) == 24_000
    assert len(split_training(labels, n_classes=2).search) == 19_200


@pytest.mark.parametrize("labels", [[], [0, 1], [0, 0, 1]])
def test_a_split_with_too_few_images_to_train_on_is_refused(labels: list[int]) -> None:
    with pytest.raises(InputError, match="too few are left"):
        split_training(np.asarray(labels, dtype=np.int64), n_classes=2)
