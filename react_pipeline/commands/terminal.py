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

from rich.console import Console
from rich.table import Table
from rich.text import Text


def printable(text: str) -> str:
    """Return a text in which every character that is not printable is U+FFFD: control characters,
    escapes, bidi overrides.

    Captions, keys and URLs are data from strangers, who could else move the cursor or rewrite what
    was printed before. Line breaks are not printable either: split what has lines.
    """
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print one line now, above a progress bar if there is one, so that a pipe or a file shows it
    as it happens.
    """
    file = stream or sys.stdout
    text = _printable_lines(text)
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
        """Return the descriptor that is to be redirected, not the one that is written to."""
        return self._number


def log_to_terminal() -> None:
    """Show warnings, that a build waits for another one, and how far a loop over a corpus is: a
    command would look as if it hung.
    """
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in ("react_pipeline.store.durable", "react_pipeline.corpus.progress_lines"):
        logging.getLogger(name).setLevel(logging.INFO)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_line(self.format(record), sys.stderr)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], right: int = 0) -> None:
    """Print a table; a pipe or a file gets every row as one whole line.

    A terminal that is too narrow folds long cells and cuts none: names may differ at their end
    only. Columns from the third to `right` hold numbers, which are narrowed last.
    """
    console = Console(highlight=False)
    if is_whole := not console.is_terminal:
        console.width = 100_000
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(columns):
        is_number = 2 <= place < right
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(Text(name), justify=justify, overflow="fold", no_wrap=is_number)
    for row in rows:
        texts = (_printable_lines(str(cell)) for cell in row)
        table.add_row(*(Text(" ".join(text.split("\n")) if is_whole else text) for text in texts))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().rstrip("\n").split("\n"):
        print(line.rstrip())
