"""The terminal: how tables and messages are printed.

Belongs here: columns, units and alignment of what a person reads, and what of a stranger's text may
reach a terminal. Does not belong here: which command prints what (`cli`), or formats for programs.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def printable(text: str) -> str:
    """A text in which every character that is not printable is U+FFFD: control characters, escapes,
    bidi overrides.

    Captions, keys and URLs are data from strangers, who could else move the cursor or rewrite what
    was printed before. Line breaks are not printable either: split what has lines.
    """
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print one line now, above a progress bar if there is one, so that a pipe or a file shows it
    as it happens.
    """
    file, text = stream or sys.stdout, _printable_lines(text)
    tqdm = sys.modules.get("tqdm")  # loaded where there may be a bar
    if tqdm is None:
        print(text, file=file)
    else:
        tqdm.tqdm.write(text, file=file)
    file.flush()


def print_error(text: str) -> None:
    """Print one line to standard error."""
    print_line(printable(text), sys.stderr)


@contextmanager
def bars_in_terminal() -> Iterator[None]:
    """Let lines and progress bars reach a terminal while Dagster captures what steps write.

    Dagster puts a file in the place of descriptors 1 and 2 and copies what is written to it to the
    terminal by two processes. A bar sees no terminal then, and lines come late. Where there is no
    terminal nothing changes.
    """
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield
        return
    before = sys.stdout, sys.stderr
    with _Terminal(1) as sys.stdout, _Terminal(2) as sys.stderr:
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _Terminal(io.TextIOWrapper):
    """A terminal that stays one while the descriptor of this number is redirected."""

    def __init__(self, number: int) -> None:
        super().__init__(os.fdopen(os.dup(number), "wb"), errors="replace", line_buffering=True)
        self._number = number

    def fileno(self) -> int:
        """The descriptor that is to be redirected, not the one that is written to."""
        return self._number


def log_to_terminal() -> None:
    """Show warnings, and that a build waits for another one: it would look as if it hung."""
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("react_pipeline.store.store").setLevel(logging.INFO)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_line(self.format(record), sys.stderr)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], right: int = 0, below: Sequence[str] = ()
) -> None:
    """Print a table as wide as it needs to be, so that a log keeps whole lines.

    A terminal that is too narrow gets smaller gaps, headings of two lines, and the long texts of
    the columns named in `below` under their row. What is still too wide is folded, not cut: names
    may differ at their end only. Columns from the third to `right` hold numbers, which are folded
    last.
    """
    console = Console(highlight=False)
    cells = [[_printable_lines(str(cell)) for cell in row] for row in rows]
    numbers = range(2, right)
    table = _table(columns, cells, numbers, gap=2)
    wide = console.measure(table, options=console.options.update(max_width=1_000_000)).maximum
    if not console.is_terminal:
        whole = Console(width=wide, highlight=False)
        with whole.capture() as captured:
            whole.print(table)
        print(*(line.rstrip() for line in captured.get().splitlines()), sep="\n")
        return
    if wide <= console.width:
        console.print(table)
        return
    beside = [place for place, name in enumerate(columns) if name not in below]
    heads = [columns[place].replace(" to ", "\nto ") for place in beside]
    lines = [[row[place] for place in beside] for row in cells]
    numbers_beside = [place for place, column in enumerate(beside) if column in numbers]
    widths = _widths([heads, *lines], numbers_beside, console.width)
    console.print(_table(heads, [], numbers_beside, gap=1, widths=widths))
    for line, row in zip(lines, cells, strict=True):
        console.print(_table(heads, [line], numbers_beside, gap=1, widths=widths, headed=False))
        for name in below:
            if text := row[columns.index(name)]:
                console.print(
                    Padding(Text(f"{name}: {text}", overflow="fold"), (0, 0, 0, 4), expand=False)
                )


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Sequence[int],
    gap: int,
    widths: Sequence[int] | None = None,
    headed: bool = True,
) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", show_header=headed
    )
    for place, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if place in numbers else "left"
        table.add_column(
            Text(name),
            justify=justify,
            overflow="fold",
            width=None if widths is None else widths[place],
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _widths(rows: Sequence[Sequence[str]], numbers: Sequence[int], room: int) -> list[int]:
    """Width of each column with gaps of one; the widest are narrowed until all have room, as far as
    that goes.

    Numbers come last: one that is folded reads as two.
    """
    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n"))
        for column in zip(*rows, strict=True)
    ]
    texts = [place for place in range(len(widths)) if place not in numbers]
    while sum(widths) + len(widths) - 1 > room and max(widths) > 1:
        places = texts if any(widths[place] > 2 for place in texts) else range(len(widths))
        widths[max(places, key=lambda place: widths[place])] -= 1
    return widths
