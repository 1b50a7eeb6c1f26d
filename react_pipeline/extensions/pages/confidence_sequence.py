"""Confidence sequences: bounds of a finite population's sum that hold at every moment, however
often one looks.

An interval of fixed size, looked at again and again until it excludes 0, excludes it by luck sooner
or later. A confidence sequence covers the truth at all times at once with probability 1 - alpha, so
one may stop at any moment for any reason. This one is by betting (Waudby-Smith & Ramdas,
"Estimating means of bounded random variables by betting", JRSS B 86, 2024, arXiv 2010.09686,
section 5; "Confidence sequences for sampling without replacement", NeurIPS 2020, arXiv 2006.04347):
if the population's sum is S, the draws before t leave S minus their sum to the N - t + 1 that are
left, so the mean of draw t is known, and no bet on it gains on average. By Ville's inequality a
wealth that begins at 1 ever reaches 1 / alpha with probability alpha at most. Sums that would have
made such a wealth are excluded. The bets are a mixture over shares of the wealth, so nothing is
tuned. Shapes: T draws of N, B bets.
"""

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

_BETS = 64
_SHARES = (np.arange(_BETS) + 0.5) / _BETS
"""Shares of the wealth that are staked, with equal weight (B,)."""
_MAX_LOG = 700.0
"""Logarithm of more than anybody wants to win, and less than a float can hold."""

Values = NDArray[np.int64]


def log_wealth(values: Values, total: int, population: int) -> NDArray[np.float64]:
    """Return the logarithm of the wealth after each draw (T,) of a player who bets that the sum of
    the population is more than `total`.

    It falls as `total` grows; infinite where the draws alone exceed what `total` allows.

    Args:
        values: Draws without replacement, each -1, 0 or 1 (T,).
        total: The sum that is bet against, -N to N.
        population: N.
    """
    raised = values + 1  # 0, 1 or 2, so that what is left of the sum can be no less than 0
    left = total + population - np.concatenate([[0], np.cumsum(raised)])
    mean = left[:-1] / (population - np.arange(len(values)))
    odds = np.divide(raised, mean, out=np.ones(len(values)), where=mean > 0)
    wealth = np.cumsum(np.log1p(_SHARES[:, None] * (odds - 1)), axis=1)
    mixed = np.log(np.exp(np.minimum(wealth, _MAX_LOG)).mean(axis=0))
    return np.where(np.minimum.accumulate(left[1:]) < 0, np.inf, mixed)


def sum_bounds(
    lowest: Values, highest: Values, population: int, confidence: float
) -> tuple[int, int]:
    """Return two-sided bounds of the population's sum; they contain it at all T at once with this
    confidence.

    Args:
        lowest: Draws without replacement, -1, 0 or 1, each the least that it may be (T,).
        highest: The same draws, each the most that it may be (T,).
        population: N.
        confidence: Of both bounds together.
    """
    low = _lower_bound(lowest, population, confidence)
    high = -_lower_bound(-highest, population, confidence)
    # A sequence that has excluded every sum, which it may do with probability 1 - confidence, has
    # no interval.
    return min(low, high), max(low, high)


def p_value(lowest: Values, population: int) -> float:
    """Return the least level at which the sum was above 0 at any draw so far; valid at any moment,
    like the bounds.
    """
    return float(np.exp(-max(0.0, log_wealth(lowest, 0, population).max(initial=0.0))))


def _lower_bound(values: Values, population: int, confidence: float) -> int:
    known = int(values.sum())
    unknown = population - len(values)
    threshold = np.log(2 / (1 - confidence))
    sums = range(known - unknown, known + unknown)
    return sums.start + bisect_left(
        sums,
        True,
        key=lambda total: log_wealth(values, total, population).max(initial=0.0) < threshold,
    )
