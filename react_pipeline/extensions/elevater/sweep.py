"""The search for learning rate and weight decay, and the final training with what it found
(ELEVATER's protocol).

Weight decays are a grid of 97 points, eight to a decade. Each learning rate starts with 7 of them,
two decades apart, and then looks 8, 4, 2 and 1 points to both sides of its best. Learning rates do
not depend on each other: a round holds the trials of all of them, for a trainer that can train many
at once. Does not belong here: how a trial trains (`trainer`). Shapes: N images, C
classes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from react_pipeline.store import TrainingError

from .shots import Split

LEARNING_RATES = tuple(np.logspace(-6, -1, 6).tolist())
WEIGHT_DECAYS = tuple(np.logspace(-6, 6, 97).tolist())
FIRST_POINTS = tuple(range(0, 97, 16))
STEPS = (8, 4, 2, 1)
SWEEP_EPOCHS, FINAL_EPOCHS = 10, 50


@dataclass(frozen=True)
class Trial:
    """What a trial varies."""

    learning_rate: float
    weight_decay: float


@dataclass
class Curve:
    """How one trial goes.

    Attributes:
        scores: The metric on the evaluated images after each epoch, fractions; shorter if the trial
            failed.
        failure: Why it failed; "" if it did not.
        best_probabilities: (N, C) after the epoch with the best score (the first of equals), if
            they were asked for.
        last_probabilities: (N, C) after the last epoch, if they were asked for.
    """

    trial: Trial
    scores: list[float] = field(default_factory=list)
    failure: str = ""
    best_probabilities: NDArray[np.float32] | None = field(default=None, repr=False)
    last_probabilities: NDArray[np.float32] | None = field(default=None, repr=False)
    n_trainable: int = 0

    @property
    def best(self) -> float:
        """Return the score of the best epoch; 0 for a trial that failed, even if it failed late."""
        return 0.0 if self.failure else max(self.scores)

    @property
    def last(self) -> float:
        """Return the score of the last epoch; 0 for a trial that failed."""
        return 0.0 if self.failure else self.scores[-1]


@dataclass(frozen=True)
class SweepResult:
    """What a search found.

    Attributes:
        score: Its score on the held-out images.
        curves: Every trial, in the order of the rounds.
        failures: Why trials failed, and how many for each reason.
    """

    best: Trial
    score: float
    curves: tuple[Curve, ...]
    failures: dict[str, int]


@dataclass(frozen=True)
class Adaptation:
    """A model adapted to a dataset: the search, and the final training with its scores on the test
    images.

    The leaderboard shows `final.best`, the best of all epochs on the test images, which tunes on
    them. Decisions belong to `final.last`, the last epoch.
    """

    search: SweepResult
    final: Curve


def sweep(run_round: Callable[[list[Trial]], list[Curve]]) -> SweepResult:
    """Find the learning rate and weight decay with the best score; `run_round` gives the curves of
    a round's trials.

    Of equal scores the trial that was visited first wins: within a round the lower weight decay,
    between rounds the earlier one, between learning rates the lower one. A failed trial never wins.

    Raises:
        TrainingError: If every trial failed.
    """
    curves: list[Curve] = []
    peaks: dict[float, tuple[float, int]] = {}  # by learning rate: the best score, and where
    points = {rate: list(FIRST_POINTS) for rate in LEARNING_RATES}
    for step in (*STEPS, 0):  # after the last round none
        places = [(rate, point) for rate, chosen in points.items() for point in chosen]
        finished = (
            run_round([Trial(rate, WEIGHT_DECAYS[point]) for rate, point in places])
            if places
            else []
        )
        curves += finished
        for (rate, point), curve in zip(places, finished, strict=True):
            if not curve.failure and (rate not in peaks or curve.best > peaks[rate][0]):
                peaks[rate] = curve.best, point
        points = {
            rate: _neighbours(point, step, last=len(WEIGHT_DECAYS) - 1)
            for rate, (_, point) in peaks.items()
        }
    failures = dict(Counter(curve.failure for curve in curves if curve.failure))
    if not peaks:
        raise TrainingError(
            f"sweep: all {len(curves)} trials failed ({failures}); look at the features' scale"
        )
    # The first of equal scores, which has the lowest learning rate.
    learning_rate, (score, point) = max(peaks.items(), key=lambda peak: peak[1][0])
    return SweepResult(Trial(learning_rate, WEIGHT_DECAYS[point]), score, tuple(curves), failures)


def adapt(
    train_trials: Callable[..., list[Curve]], train: Any, test: Any, split: Split
) -> Adaptation:
    """Search on the training images, then train the final model and evaluate it on the test images
    after each epoch.

    Args:
        train_trials: Called with the examples to train on, those to evaluate on after each epoch,
            and the trials, for each of which it trains a fresh model; `epochs` and
            `keep_probabilities` by name. One curve a trial.
        train: `train.subset(indices)` gives some of the examples.
        test: All test examples; the search never sees them.

    Raises:
        TrainingError: If every trial or the final training fails.
    """
    how = {"epochs": SWEEP_EPOCHS, "keep_probabilities": False}
    searched = train.subset(split.search)
    held_out = train.subset(split.held_out)
    search = sweep(lambda trials: train_trials(searched, held_out, trials, **how))
    (final,) = train_trials(
        train.subset(split.final), test, [search.best], epochs=FINAL_EPOCHS, keep_probabilities=True
    )
    if final.failure:
        raise TrainingError(
            f"final training with learning rate {search.best.learning_rate:g} and weight decay "
            f"{search.best.weight_decay:g}: {final.failure} after {len(final.scores)} of "
            f"{FINAL_EPOCHS} epochs; give a lower learning rate"
        )
    return Adaptation(search, final)


def _neighbours(point: int, step: int, *, last: int) -> list[int]:
    return [near for near in (max(point - step, 0), min(point + step, last)) if near != point]
