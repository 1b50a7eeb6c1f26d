"""What the command lines of all benchmarks share: their options, their tables, and the section of a
page that a benchmark writes between two markers of its own.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.pages import markdown_table

ROOT = Path(__file__).parents[1]

Rows = dict[str, dict[str, Any]]
"""Values of a table, by row and column."""


def make_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser that describes a benchmark by its docstring and has `--page`."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="has the two markers; gets the tables")
    return parser


def parse_sizes(parser: argparse.ArgumentParser, **sizes: tuple[int, int]) -> argparse.Namespace:
    """Parse the command line, to which sizes are added, each with its usual value and the one that
    `--quick` takes.
    """
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    for name, (usual, quick) in sizes.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, help=f"default: {usual}, quick: {quick}"
        )
    given = parser.parse_args()
    for name, values in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, values[given.quick])
    return given


def to_markdown(rows: Rows) -> str:
    """Return rows as a Markdown table, with a column for each key of any row."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows.values())))
    cells = [[name, *(figure(row.get(column)) for column in columns)] for name, row in rows.items()]
    return markdown_table(["", *columns], cells).rstrip()


def figure(value: Any) -> str:
    """Return a number with three digits or all before its point, a dash where there is none; text
    and counts stay as they are.
    """
    if isinstance(value, str | int):
        return f"{value}"
    if pd.isna(value):
        return "–"
    if abs(value) < 0.001:
        return f"{value:.1e}" if value else "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def show_section(text: str, page: Path | None, begin: str, end: str) -> None:
    """Print a text, and write it between the two markers of a page if there is one."""
    print(text)
    if page is not None:
        write_section(page, text, begin, end)


def write_section(page: Path, text: str, begin: str, end: str) -> None:
    """Put `text` between the two markers of a page; all else stays as it is.

    Raises:
        ValueError: If the page has not both markers, once each and in this order.
    """
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found and found_end):
        raise ValueError(
            f"{page}: needs the lines {begin} and {end}; the table is written between them"
        )
    page.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}", encoding="utf-8")
