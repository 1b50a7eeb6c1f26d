"""Simulated judges: whether the interval of `react-pipeline judge` covers the truth, and how many
clicks it takes.

Run: `.venv/bin/python -m benchmarks.judge`; `--page benchmarks/results.md` writes the table there.
It needs no data and no model.

Two models disagree on D pictures. On 20% of them neither is right; on the others the candidate is
right more often than the base by the stated difference of all D. A judge errs on a share of the
pictures: where one model is right it names the other, where neither is right it names one of them
by chance. Each simulation draws the pictures in another order and judges all of them.

`covers` is the share of simulations in which no interval, after any click, excluded the difference
as this judge sees it: the promise is 95%. Mistakes draw what a judge sees towards 0. A judge stops
as soon as the answer is clear (the interval excludes 0 and the exact test agrees), after `--most`
clicks, or when all are judged. `wrong` is the share in which it was clear on the wrong side, or
where there is no difference at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom  # type: ignore[import-untyped, unused-ignore]

from benchmarks.pages import make_parser, show_section
from react_pipeline.extensions.pages.session import log_wealth
from react_pipeline.pages import markdown_table

BEGIN, END = "<!-- judge:begin -->", "<!-- judge:end -->"
COLUMNS = ["D", "difference", "judge errs", "covers", "median clicks", "90% of runs"]
COLUMNS += ["clear", "wrong"]
SIZES, DIFFERENCES, ERRORS = (100, 1000), (0.0, 0.2, 0.4), (0.0, 0.1)
NEITHER = 0.2
LEVEL = 0.025
"""Of one side."""


def simulate(size: int, difference: float, error: float, runs: int, most: int) -> list[Any]:
    """One row of the table."""
    rng = np.random.default_rng([size, round(100 * difference), round(100 * error)])
    won, lost = (round(size * (1 - NEITHER + sign * difference) / 2) for sign in (1, -1))
    truth = np.repeat([1, -1, 0], [won, lost, size - won - lost])
    total, counts, clicks = int(truth.sum()), np.zeros(3, dtype=int), []
    for _ in range(runs):
        seen = _judged(rng.permutation(truth), error, rng)
        above, below = _clear(seen)[:most], _clear(-seen)[:most]
        last = np.append(np.flatnonzero(above | below), len(above) - 1)[0]
        clicks.append(last + 1)
        wrong = below[last] if total > 0 else above[last] | below[last]
        covered = not _excludes(seen)
        counts += [covered, above[last] | below[last], wrong]
    shares = [f"{100 * count / runs:.1f}%" for count in counts]
    median, nine_tenths = (int(np.quantile(clicks, share)) for share in (0.5, 0.9))
    return [size, f"{difference:.0%}", f"{error:.0%}", shares[0], median, nine_tenths, *shares[1:]]


def _judged(values: NDArray[np.int64], error: float, rng: np.random.Generator) -> NDArray[np.int64]:
    mistaken = np.where(values == 0, rng.choice([-1, 1], len(values)), -values)
    return np.where(rng.random(len(values)) < error, mistaken, values)


def _excludes(values: NDArray[np.int64]) -> bool:
    """Whether any interval, after any click, excluded the sum of all."""
    total, size = int(values.sum()), len(values)
    either = max(log_wealth(values, total, size).max(), log_wealth(-values, -total, size).max())
    return bool(either >= -np.log(LEVEL))


def _clear(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """After which clicks the sum is clearly above 0 (T,): by the sequence so far, and by the exact
    test.
    """
    won, lost = np.cumsum(values == 1), np.cumsum(values == -1)
    sequence = np.maximum.accumulate(log_wealth(values, 0, len(values))) >= -np.log(LEVEL)
    return sequence & (binom.sf(won - 1, won + lost, 0.5) <= LEVEL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it into a page."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument(
        "--most", type=int, default=200, help="Clicks after which a judge gives up."
    )
    given = parser.parse_args(arguments)
    settings = [
        (size, gain, error) for size in given.sizes for gain in DIFFERENCES for error in ERRORS
    ]
    text = markdown_table(COLUMNS, [simulate(*one, given.runs, given.most) for one in settings])
    show_section(text, given.page, BEGIN, END)


if __name__ == "__main__":
    main()
