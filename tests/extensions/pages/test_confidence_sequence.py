"""Confidence sequences, checked exactly: over every order in which a small population can
be drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from react_pipeline.extensions.pages.session import (
    Values,
    log_wealth,
    sum_bounds,
)

POPULATIONS = [
    (1, 1, 1, 1, -1, -1, -1),
    (1, 1, 1, 1, 1, 1, 0, 0),
    (1, -1, 0, 0, 0, 0, 0),
    (-1, -1, -1, -1, -1, -1, 1, 0),
]
LEVEL = 0.75


def orders(population: tuple[int, ...]) -> Iterator[Values]:
    """Every different order, each as likely as any other."""
    return (np.array(order) for order in sorted(set(permutations(population))))


@pytest.mark.parametrize("population", POPULATIONS, ids=str)
def test_no_bet_on_the_truth_gains_on_average(population: tuple[int, ...]) -> None:
    total = sum(population)
    wealth = [np.exp(log_wealth(order, total, len(population))) for order in orders(population)]
    assert np.mean(wealth, axis=0) == pytest.approx(1)


@pytest.mark.parametrize("population", POPULATIONS, ids=str)
def test_all_bounds_of_sequence_hold_at_once_as_often_as_stated(
    population: tuple[int, ...],
) -> None:
    total, size, held, looked = sum(population), len(population), 0, 0
    narrowest = 2 * size
    for order in orders(population):
        bounds = [
            sum_bounds(order[:drawn], order[:drawn], size, LEVEL) for drawn in range(size + 1)
        ]
        held += all(low <= total <= high for low, high in bounds)
        looked += 1
        narrowest = min(narrowest, *(high - low for low, high in bounds[:-1]))
        assert bounds[0] == (-size, size) and bounds[-1] == (total, total)
    assert Fraction(held, looked) >= LEVEL
    assert narrowest < size  # or bounds that say nothing would pass
