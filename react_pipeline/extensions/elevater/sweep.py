"""The search for learning rate and weight decay, and the final training with what it found
(ELEVATER's protocol).

Weight decays are a grid of 97 points, eight to a decade. Each learning rate starts with 7 of them,
two decades apart, and then looks 8, 4, 2 and 1 points to both sides of its best. Does not belong
here: how a trial trains (`trainer`). Shapes: N images, C classes.
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
    """

    trial: Trial
    scores: list[float] = field(default_factory=list)
    failure: str = ""
    best_probabilities: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def best(self) -> float:
        """Return the score of the best epoch; 0 for a trial that failed, even if it failed late."""
        return 0.0 if self.failure else max(self.scores)


def sweep(train_trial: Callable[[Trial], Curve]) -> tuple[Curve, list[Curve]]:
    """Find the learning rate and weight decay with the best score.

    Of equal scores the trial that was visited first wins. A failed trial never wins.

    Returns:
        The best trial, and all of them.

    Raises:
        TrainingError: If every trial failed.
    """
    curves: list[Curve] = []
    best: Curve | None = None
    for rate in LEARNING_RATES:
        peak: Curve | None = None
        place, points = 0, list(FIRST_POINTS)
        for step in (*STEPS, 0):  # after the last round none
            for point in points:
                curve = train_trial(Trial(rate, WEIGHT_DECAYS[point]))
                curves.append(curve)
                if not curve.failure and (peak is None or curve.best > peak.best):
                    peak, place = curve, point
            points = [] if peak is None else _neighbours(place, step)
        if peak is not None and (best is None or peak.best > best.best):
            best = peak
    if best is None:
        failures = dict(Counter(curve.failure for curve in curves))
        raise TrainingError(
            f"sweep: all {len(curves)} trials failed ({failures}); look at the features' scale"
        )
    return best, curves


def adapt(
    train_trial: Callable[..., Curve], train: Any, test: Any, split: Split
) -> tuple[Curve, int]:
    """Search on the training images, then train the final model and evaluate it on the test images
    after each epoch.

    Args:
        train_trial: Called with the examples to train on, those to evaluate on after each epoch,
            and a trial, for which it trains a fresh model; `epochs` and `keep_probabilities` by
            name.
        train: `train.subset(indices)` gives some of the examples.
        test: All test examples; the search never sees them.

    Returns:
        The final training, and how many trials of the search failed. The leaderboard shows the best
        of its epochs, which tunes on the test images; decisions belong to the last epoch.

    Raises:
        TrainingError: If every trial or the final training fails.
    """
    searched = train.subset(split.search), train.subset(split.held_out)
    found, curves = sweep(lambda trial: train_trial(*searched, trial, epochs=SWEEP_EPOCHS))
    final = train_trial(
        train.subset(split.final), test, found.trial, epochs=FINAL_EPOCHS, keep_probabilities=True
    )
    if final.failure:
        raise TrainingError(
            f"final training with learning rate {found.trial.learning_rate:g} and weight decay "
            f"{found.trial.weight_decay:g}: {final.failure} after {len(final.scores)} of "
            f"{FINAL_EPOCHS} epochs; give a lower learning rate"
        )
    return final, sum(bool(curve.failure) for curve in curves)


def _neighbours(point: int, step: int) -> list[int]:
    last = len(WEIGHT_DECAYS) - 1
    return [near for near in (max(point - step, 0), min(point + step, last)) if near != point]
