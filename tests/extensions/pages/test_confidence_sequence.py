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
    p_value,
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


def test_bounds_only_tighten_and_are_those_of_the_mirror_image() -> None:
    order = np.random.default_rng(0).permutation([1] * 40 + [-1] * 20 + [0] * 20)
    low, high = zip(
        *(sum_bounds(order[:drawn], order[:drawn], 80, 0.95) for drawn in range(0, 81, 5)),
        strict=True,
    )
    assert list(low) == sorted(low) and list(high) == sorted(high, reverse=True)
    assert sum_bounds(-order[:50], -order[:50], 80, 0.95) == (-high[10], -low[10])


def test_eight_of_eight_are_enough_by_p_value_and_bound() -> None:
    for drawn in range(1, 14):
        values = np.ones(drawn, dtype=np.int64)
        low, _ = sum_bounds(values, values, 10_000, 0.95)
        assert (low > 0) == (p_value(values, 10_000) <= 0.025) == (drawn >= 8)


def test_unknown_values_widen_the_bounds_to_both_sides() -> None:
    known = np.array([1, 0, 1, -1] * 10)
    doubt = np.tile([False, True, False, False], 10)
    low, high = sum_bounds(np.where(doubt, -1, known), np.where(doubt, 1, known), 100, 0.95)
    for guess in (-1, 0, 1):
        filled = np.where(doubt, guess, known)
        inner = sum_bounds(filled, filled, 100, 0.95)
        assert low <= inner[0] and inner[1] <= high
