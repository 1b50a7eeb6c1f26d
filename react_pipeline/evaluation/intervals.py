"""Intervals: how far a figure measured on N images could be off because of which images they are.

They describe the sampling of images and of nothing else: another seed of the training may differ by
more.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_SEED = 0

Correct = np.ndarray[Any, Any]


Gains = tuple[int, int, int]
"""On how many images one method is right and the other is not, on how many it is the other way
round, and of how many images."""


def count_gains(method_correct: Correct, base_correct: Correct) -> Gains:
    """The gains of a method, from whether it and the base are right on the same N images."""
    difference = method_correct.astype(int) - base_correct.astype(int)
    return int((difference == 1).sum()), int((difference == -1).sum()), len(difference)


def paired_interval(gains: Gains, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided bootstrap interval of the difference in accuracy of two methods on the same images,
    as fractions.
    """
    return mean_interval([gains], confidence)


def mean_interval(gains: Sequence[Gains], confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval of the mean difference over several sets, each with equal weight.

    Images are resampled within each set and independently between sets (a stratified bootstrap). So
    it says how well these sets are known, not what another set would give.
    """
    # Resampling N images is drawing from the multinomial of (gained, lost, equal), so no image is
    # ever copied.
    resampled = []
    for number, (gained, lost, images) in enumerate(gains):
        shares = [count / images for count in (gained, lost, images - gained - lost)]
        drawn = np.random.default_rng((_SEED, number)).multinomial(images, shares, RESAMPLES)
        resampled.append((drawn[:, 0] - drawn[:, 1]) / images)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.mean(resampled, axis=0), [tail, 100 - tail])
    return float(low), float(high)


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a share of `count` images (Wilson 1927): it stays within 0 and
    1.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped, unused-ignore]  # takes half a second

    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def sign_test(differences: NDArray[Any]) -> float:
    """The exact test (McNemar's) of "not better", one side, for +1 won, -1 lost and 0 (N,).

    The chance that a coin wins as many of those that were won or lost.
    """
    from scipy.stats import binom  # type: ignore[import-untyped, unused-ignore]  # takes half a second

    won = (differences == 1).sum()
    return float(binom.sf(won - 1, (differences != 0).sum(), 0.5))
