"""Expected gains: the ridge, the interval, and domains that are left out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from react_pipeline.extensions.advise.forecast import (
    COVERAGE,
    NAMES,
    PENALTY,
    MeasuredDomain,
    Measurements,
    calibration,
    forecast,
    outside,
    rank_correlation,
)


def measured(count: int = 30, noise: float = 0.05) -> list[MeasuredDomain]:
    """Domains whose gain is linear in two signs, and noise."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        signs = dict(zip(NAMES, random.random(len(NAMES)), strict=True))
        gain = 0.4 * signs["similarity"] - 0.2 * signs["classes"] + noise * random.normal()
        rows.append(MeasuredDomain(f"domain-{number}", "", "keep", signs, {"gda": gain}))
    return rows


def test_the_expected_gain_is_that_of_a_ridge() -> None:
    rows = measured()
    x = np.array([[row.signs[name] for name in NAMES] for row in rows])
    scaler = StandardScaler().fit(x)
    ridge = Ridge(alpha=PENALTY).fit(scaler.transform(x), [row.gains["gda"] for row in rows])
    signs = dict.fromkeys(NAMES, 0.3)
    point = scaler.transform(np.full((1, len(NAMES)), 0.3))
    of = forecast(rows, "gda", signs)
    assert of is not None
    assert of.expected == pytest.approx(float(ridge.predict(point)[0]))
    assert of.high - of.expected == pytest.approx(of.expected - of.low)


def test_the_interval_is_a_residual_of_domains_left_out() -> None:
    rows = measured(9)
    residuals = []
    for number, row in enumerate(rows):
        of = forecast(rows[:number] + rows[number + 1 :], "gda", row.signs)
        assert of is not None
        residuals.append(abs(of.expected - row.gains["gda"]))
    whole = forecast(rows, "gda", rows[0].signs)
    assert whole is not None
    half = sorted(residuals)[math.ceil(10 * COVERAGE) - 1]
    assert whole.high - whole.expected == pytest.approx(half)


def test_too_few_domains_give_no_interval_or_nothing() -> None:
    few = forecast(measured(3), "gda", dict.fromkeys(NAMES, 0.5))
    assert few is not None
    assert few.high == math.inf
    assert forecast(measured(1), "gda", dict.fromkeys(NAMES, 0.5)) is None
    assert forecast(measured(), "full", dict.fromkeys(NAMES, 0.5)) is None
    assert calibration(measured(), "full") is None


def test_what_shares_classes_is_left_out_together() -> None:
    rows = measured(3)
    assert calibration(rows, "gda") is not None
    # Other pairs of one domain, and a part of it, would give its gain away.
    same = [rows[0], replace(rows[1], domain=rows[0].domain), replace(rows[2], pairs="exclude")]
    assert calibration([*same[:2], replace(same[2], domain=rows[0].domain)], "gda") is None
    parts = [rows[0], *(replace(row, within=rows[0].domain) for row in rows[1:])]
    assert calibration(parts, "gda") is None
    assert not rows[0].shares_classes(rows[1])


def test_intervals_hold_about_as_many_gains_as_they_should() -> None:
    of = calibration(measured(24), "gda")
    assert of is not None
    assert of.rank_correlation > 0.8
    assert COVERAGE - 0.15 < of.coverage <= 1


def test_a_sign_beyond_all_measured_ones_is_named() -> None:
    rows = measured()
    assert outside(rows, "gda", {**rows[0].signs, "similarity": 1.5}) == ["similarity"]
    assert not outside(rows, "gda", rows[0].signs)
    largest = max(row.signs["similarity"] for row in rows)
    far, edge = (
        forecast(rows, "gda", {**rows[0].signs, "similarity": value}) for value in (99.0, largest)
    )
    assert far == edge


def test_ranks_of_equal_values_are_shared() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 20]) == pytest.approx(0.866, abs=1e-3)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [1, 1, 1]) == 0


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = measured(4)
    both = Measurements(tuple(rows), {"gda": [calibration(rows, "gda"), None]})
    both.write(tmp_path / "measured.json")
    assert Measurements.read(tmp_path / "measured.json") == both


def test_the_package_brings_domains_and_their_calibration() -> None:
    brought = Measurements.read()
    assert len({row.domain for row in brought.domains if "gda" in row.gains}) >= 20
    # The method with fewest domains, since each of n is left out of n - 1.
    again = [calibration(brought.domains, "gated-image", pictures=one) for one in (False, True)]
    for mine, shipped in zip(again, brought.calibrations["gated-image"], strict=True):
        assert mine is not None
        assert shipped is not None
        assert mine.domains == shipped.domains
        assert mine.rank_correlation == pytest.approx(shipped.rank_correlation, abs=1e-6)
        assert mine.coverage == pytest.approx(shipped.coverage, abs=1e-6)


def test_without_measured_domains_there_is_no_calibration() -> None:
    assert calibration([], "gda") is None
