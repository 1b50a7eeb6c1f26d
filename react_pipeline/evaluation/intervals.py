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


def paired_interval(
    method_correct: Correct, base_correct: Correct, confidence: float = 0.95
) -> tuple[float, float]:
    """Two-sided bootstrap interval of the difference in accuracy of two methods on the same N
    images, as fractions.
    """
    tail = 50 * (1 - confidence)
    low, high = np.percentile(_differences(method_correct, base_correct, _SEED), [tail, 100 - tail])
    return float(low), float(high)


def mean_interval(pairs: Sequence[tuple[Correct, Correct]]) -> tuple[float, float]:
    """95% interval of the mean difference over several sets, each with equal weight.

    Images are resampled within each set and independently between sets (a stratified bootstrap). So
    it says how well these sets are known, not what another set would give.

    Args:
        pairs: For each set, whether the method and whether the base is right on each of its images.
    """
    resampled = [
        _differences(method, base, (_SEED, number)) for number, (method, base) in enumerate(pairs)
    ]
    low, high = np.percentile(np.mean(resampled, axis=0), [2.5, 97.5])
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


def _differences(
    method_correct: Correct, base_correct: Correct, seed: int | tuple[int, ...]
) -> NDArray[np.float64]:
    # Resampling N images is drawing from the multinomial of (gained, lost, equal), so no image is
    # ever copied.
    difference = method_correct.astype(int) - base_correct.astype(int)
    shares = [float((difference == value).mean()) for value in (1, -1, 0)]
    gained, lost, _ = np.random.default_rng(seed).multinomial(len(difference), shares, RESAMPLES).T
    return (gained - lost) / len(difference)
