"""Names that people write in settings: each can be seen, differs from the others as it is read, and
is plain text in a spreadsheet; and what may be meant by a name that does not exist.

Does not belong here: slugs, which are folders too (`config`).
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

_FORMULA = re.compile(r"[=@].|[+-](.*[|!]|\s*\w+\()")
_CUTOFF = 0.7
"""The least similarity of a near name: `gpu` is no misspelt `cpu`."""
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the order in which a text is shown."""


def folded(name: str) -> str:
    """Return a name as people compare it: without case, extra blanks, and what is not seen."""
    visible = "".join(mark for mark in name if unicodedata.category(mark) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).lower().split())


def _require_visible(name: str) -> str:
    if any(unicodedata.category(mark) == "Cc" or mark in _BIDI for mark in name):
        raise ValueError(f"{name!r}: holds control characters; write it without")
    if not folded(name):
        raise ValueError(f"{name!r}: holds nothing that can be seen; write a name")
    return name


def _require_no_formula(name: str) -> str:
    if _FORMULA.match(name.lstrip()):
        raise ValueError(
            f"{name!r}: a spreadsheet runs it as a formula, in the tables of results; write it in "
            "another way"
        )
    return name


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_require_visible)]
ClassName = Annotated[Name, AfterValidator(_require_no_formula)]


def did_you_mean(name: str, names: Iterable[str], otherwise: str = "") -> str:
    """Return a question that names the nearest of `names`, whatever their case; `otherwise` if none
    is near.
    """
    close = near_names(name, names)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Return the nearest of `names`, whatever their case, the nearest first.

    Time grows with the letters of all names: 0.1 s for 25,000 words.
    """
    by_folded = {other.casefold(): other for other in sorted(names)}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=_CUTOFF)
    return [by_folded[folded] for folded in close]
