"""Text for people from Jinja2 templates in `<room>/templates`, and tables in Markdown.

Whatever a template puts in is escaped for its format unless it is `Markup`, because names,
captions, and reasons come from outside.
"""

import functools
import numbers
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_JOINERS = "\u200c\u200d"
"""Invisible, and part of spelling in several scripts."""


def render(room: str, template: str, **values: Any) -> str:
    """Fill a template of a room; its name ends in `.html` or `.md`, which decides how values are
    escaped.
    """
    return _environment(room, template.endswith(".md")).get_template(template).render(values)


@functools.cache
def _environment(room: str, markdown: bool) -> Environment:
    def finalize(value: Any) -> Any:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return Markup(escaped(value)) if markdown else one_line(value)  # noqa: S704  # escaped here

    environment = Environment(
        loader=PackageLoader("react_pipeline", f"{room}/templates"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment


def one_line(text: Any) -> str:
    """Return text with every run of blanks and line breaks as one blank."""
    return " ".join(str(text).split())


def escaped(text: str) -> str:
    """Return text from outside for a line of Markdown: no markup, HTML, link, line break or
    invisible sign comes through.
    """
    visible = (
        letter if letter in _JOINERS or unicodedata.category(letter)[0] != "C" else " "
        for letter in text
    )
    # A colon is what turns http into a link; a bar ends a cell of a table. Brackets alone make a
    # link of parentheses.
    return re.sub(r"([\\`*_{}\[\]<>#|~!&:@$])", r"\\\1", one_line("".join(visible)))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown: text that is not `Markup` is escaped, None and NaN are empty."""
    head, *lines = (f"| {' | '.join(map(_cell, row))} |\n" for row in (columns, *rows))
    return "".join([head, "|" + "---|" * len(columns) + "\n", *lines])


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN differs from itself
        return ""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    # A backslash before a bar still ends the cell for some readers.
    return str(value) if isinstance(value, Markup) else escaped(str(value)).replace("\\|", "&#124;")
