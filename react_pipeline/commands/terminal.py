"""The terminal: how tables and messages are printed.

Belongs here: columns, units and alignment of what a person reads, and what of a stranger's text may reach a terminal.
Does not belong here: which command prints what (`cli`), or formats for programs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("n", "pairs", "trainable_parameters")

WIDE_COLUMNS = 200
"""Width where no terminal sets one, so that a log keeps whole lines."""


def printable(text: str) -> str:
    """A text in which every character that is not printable is U+FFFD: control characters, escapes, bidi overrides.

    Captions, keys and URLs are data from strangers, who could else move the cursor or rewrite what was printed before.
    Line breaks are not printable either: split what has lines.
    """
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)


def log_to_terminal() -> None:
    """Show warnings, and that a build waits for another one: it would look as if it hung."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("react_pipeline.store").setLevel(logging.INFO)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _printable_lines(super().format(record))


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table for programs: floats as they were measured, counts as integers, None where there is no number."""
    rows = table.to_dict(orient="records")
    return [{str(name): _plain(str(name), value) for name, value in row.items()} for row in rows]


def print_results(table: pd.DataFrame) -> None:
    """Print the table of `compare.comparison_table`, fractions as percent and differences as points."""
    columns = ["domain", "method", "top-1 %", "top-5 %", "delta to base", "pairs", "trainable", "seconds", "status"]
    rows = [
        [
            *(row.domain, row.method, _percent(row.top1), _percent(row.top5), _percent(row.delta_top1, "+")),
            *(_count(row.pairs), _count(row.trainable_parameters), _count(row.seconds)),
            "" if row.status == "ok" else row.status,
        ]
        for row in table.itertuples()
    ]
    print_table(columns, rows, right=8)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _plain(name: str, value: Any) -> Any:
    if value != value:
        return None
    return int(value) if name in COUNTS and float(value).is_integer() else value


def _percent(value: float, sign: str = "") -> str:
    return "" if value != value else f"{100 * value:{sign}.1f}"


def _count(value: float) -> str:
    return "" if value != value else f"{value:,.0f}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], right: int = 0) -> None:
    """A table as wide as it needs to be where no terminal limits it; columns from the third to `right` hold numbers."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[2:right]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(escape(_printable_lines(str(cell))) for cell in row))
    wide = Console(width=None if Console().is_terminal else max(WIDE_COLUMNS, shutil.get_terminal_size().columns))
    wide.print(table)
