"""What the command lines of all benchmarks share: their options, and the section of a page that a
benchmark writes between two markers of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def make_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser that describes a benchmark by its docstring and has `--page`."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="has the two markers; gets the tables")
    return parser


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
