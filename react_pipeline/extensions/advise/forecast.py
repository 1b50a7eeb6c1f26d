"""Forecasts: the gain that signs promise, by ridge regression on measured domains, with a conformal
interval.

The interval is as wide as the residuals of domains that were left out in turn. Does not belong
here: measuring domains (a benchmark writes `measured.json`), the signs of a domain (`signs`).
Shapes: N rows, F signs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NAMES = ("similarity", "held_out_gain", "classes")
NAMES_WITH_PICTURES = (*NAMES, "nearness")
"""Without `named`: captions name nearly all classes of the measured domains."""
FILE = Path(__file__).with_name("measured.json")
COVERAGE = 0.8
"""The share of gains that intervals should hold."""
PENALTY = 1.0
"""Of the ridge, on signs of unit variance, in squared residuals summed over rows."""


@dataclass(frozen=True)
class MeasuredDomain:
    """A domain whose gains were measured on labelled images.

    Attributes:
        within: A larger measured domain that has all its classes, or "".
        pairs: Which pairs it was measured with; the same domain occurs once for each.
        signs: As in `Signs.values`.
        gains: Top-1 over the base's by method, as fractions.
    """

    domain: str
    within: str
    pairs: str
    signs: Mapping[str, float]
    gains: Mapping[str, float]

    def shares_classes(self, other: MeasuredDomain) -> bool:
        """Whether a class is in both."""
        return (
            self.domain == other.domain
            or self.domain == other.within
            or self.within == other.domain
        )


@dataclass(frozen=True)
class Forecast:
    """An expected gain, as a fraction, and its interval; infinite where too few domains are
    measured.
    """

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How forecasts of a method agree with gains of domains that were left out in turn.

    Attributes:
        rank_correlation: Spearman's.
        coverage: The share of intervals that hold the gain.
        width: Their mean width.
    """

    domains: int
    rank_correlation: float
    coverage: float
    width: float


@dataclass(frozen=True)
class Measurements:
    """What the package brings: measured domains, and calibrations by method, without and with
    pictures.
    """

    domains: tuple[MeasuredDomain, ...]
    calibrations: Mapping[str, Sequence[Calibration | None]]

    @classmethod
    def read(cls, path: Path = FILE) -> Measurements:
        """From a file that `write` wrote."""
        table = json.loads(path.read_text(encoding="utf-8"))
        calibrations = {
            method: [None if one is None else Calibration(**one) for one in both]
            for method, both in table["calibrations"].items()
        }
        return cls(tuple(MeasuredDomain(**row) for row in table["domains"]), calibrations)

    def write(self, path: Path) -> None:
        """As JSON, a line a domain."""
        calibrations = {
            method: [None if one is None else asdict(one) for one in both]
            for method, both in self.calibrations.items()
        }
        lines = ",\n".join(json.dumps(asdict(row)) for row in self.domains)
        text = f'{{"calibrations": {json.dumps(calibrations)},\n"domains": [\n{lines}\n]}}\n'
        path.write_text(text, encoding="utf-8")


def forecast(
    rows: Sequence[MeasuredDomain], method: str, signs: Mapping[str, float]
) -> Forecast | None:
    """The gain of a method on a domain with these signs; None if it was measured nowhere."""
    table = _Table.of(rows, method, "nearness" in signs)
    if len(table.gains) < 2:
        return None
    point = np.array([signs[name] for name in table.names])
    everywhere = np.ones(len(table.gains), bool)
    expected = table.predict(everywhere, point)
    half = table.half_width(everywhere)
    return Forecast(expected, expected - half, expected + half)


def calibration(
    rows: Sequence[MeasuredDomain], method: str, *, pictures: bool = False
) -> Calibration | None:
    """Leave out each domain in turn, with all that share a class with it; None if none is left."""
    table = _Table.of(rows, method, pictures)
    expected, half, gains = [], [], []
    for number, gain in enumerate(table.gains):
        others = ~table.shares[number]
        if others.sum() < 2:
            return None
        expected.append(table.predict(others, table.signs[number]))
        half.append(table.half_width(others))
        gains.append(gain)
    if len(gains) < 2:
        return None
    inside = np.abs(np.subtract(expected, gains)) <= half
    return Calibration(
        len({row.domain for row in table.rows}),
        rank_correlation(expected, gains),
        float(inside.mean()),
        float(2 * np.mean(half)),
    )


def outside(rows: Sequence[MeasuredDomain], method: str, signs: Mapping[str, float]) -> list[str]:
    """Names of signs that are beyond all measured ones."""
    table = _Table.of(rows, method, "nearness" in signs)
    low, high = table.signs.min(axis=0), table.signs.max(axis=0)
    return [
        name
        for place, name in enumerate(table.names)
        if not low[place] <= signs[name] <= high[place]
    ]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; 0 where one of them is constant."""
    ranks = [pd.Series(values).rank() for values in (first, second)]
    if min(of.nunique() for of in ranks) == 1:
        return 0.0
    return float(ranks[0].corr(ranks[1]))


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows of a method: signs (N, F), gains (N,), and which share classes (N, N)."""

    names: tuple[str, ...]
    rows: tuple[MeasuredDomain, ...]
    signs: NDArray[np.float64]
    gains: NDArray[np.float64]
    shares: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[MeasuredDomain], method: str, pictures: bool) -> _Table:
        names = NAMES_WITH_PICTURES if pictures else NAMES
        mine = tuple(row for row in rows if method in row.gains and {*names} <= {*row.signs})
        signs = np.array([[row.signs[name] for name in names] for row in mine], float)
        gains = np.array([row.gains[method] for row in mine], float)
        shares = np.array([[one.shares_classes(other) for other in mine] for one in mine], bool)
        return cls(names, mine, signs.reshape(-1, len(names)), gains, shares)

    def predict(self, chosen: NDArray[np.bool_], point: NDArray[np.float64]) -> float:
        """The gain at a point (F,) by a ridge on the chosen rows (N,); beyond all of them, as at
        the nearest that they reach.
        """
        signs, gains = self.signs[chosen], self.gains[chosen]
        point = point.clip(signs.min(axis=0), signs.max(axis=0))
        mean, scale = signs.mean(axis=0), signs.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        x = (signs - mean) / scale
        weights = np.linalg.solve(
            x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ (gains - gains.mean())
        )
        return float(gains.mean() + (point - mean) / scale @ weights)

    def half_width(self, chosen: NDArray[np.bool_]) -> float:
        """The quantile of residuals of the chosen rows (N,), each left out in turn."""
        residuals = [
            abs(self.predict(others, self.signs[number]) - self.gains[number])
            for number in np.flatnonzero(chosen)
            if (others := chosen & ~self.shares[number]).any()
        ]
        rank = math.ceil((len(residuals) + 1) * COVERAGE)
        return sorted(residuals)[rank - 1] if rank <= len(residuals) else math.inf
