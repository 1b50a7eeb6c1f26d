from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from react_pipeline.extensions.elevater.shots import Split
from react_pipeline.extensions.elevater.trainer import (
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
