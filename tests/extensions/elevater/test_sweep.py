from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from react_pipeline.extensions.elevater.shots import Split
from react_pipeline.extensions.elevater.trainer import (
    FIRST_POINTS,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    Curve,
    Examples,
    Trial,
    adapt,
    sweep,
)
from react_pipeline.store import TrainingError

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
        for point in range(0, 97, 16):
            if (score(learning_rate, point) or 0.0) > height:
                peak, height = point, score(learning_rate, point) or 0.0
        step = 8
        while step > 0 and peak >= 0:
            around = [max(peak - step, 0), min(peak + step, 96)]
            for point in [near for near in around if near != peak]:
                if (score(learning_rate, point) or 0.0) > height:
                    peak, height = point, score(learning_rate, point) or 0.0
            step //= 2
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


def test_the_grid_is_the_published_one() -> None:
    assert pytest.approx((1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)) == LEARNING_RATES
    assert len(WEIGHT_DECAYS) == 97
    powers = [math.log10(WEIGHT_DECAYS[point]) for point in FIRST_POINTS]
    assert powers == pytest.approx([-6, -4, -2, 0, 2, 4, 6])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [1_000_000, 8])  # a few steps make ties
def test_the_search_is_the_published_one(seed: int, steps: int) -> None:
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


SPLIT = Split(search=np.array([2, 3]), held_out=np.array([0, 1]), final=np.array([0, 1, 2, 3]))


@pytest.mark.parametrize("fails", [False, True])
def test_the_search_sees_no_test_image_and_training_has_both(fails: bool) -> None:
    seen = []

    def train_trial(train, evaluation, trial, *, epochs):
        seen.append((*(tuple(one.numbers.tolist()) for one in (train, evaluation)), epochs))
        return Curve(trial, [0.2, 0.7], fails and epochs == 50)

    def adapted() -> tuple[Curve, int]:
        every, tests = torch.arange(4), torch.tensor([9])
        return adapt(train_trial, Examples(every, every, iter), Examples(tests, tests, iter), SPLIT)

    if fails:
        with pytest.raises(TrainingError, match="1e-06 .* 1e-06: .* finite after 2 of 50"):
            adapted()
    else:
        final, failed = adapted()
        assert (final.best, final.scores[-1], failed) == (0.7, 0.7, 0)
    assert set(seen[:-1]) == {((2, 3), (0, 1), 10)}
    assert seen[-1] == ((0, 1, 2, 3), (9,), 50)
