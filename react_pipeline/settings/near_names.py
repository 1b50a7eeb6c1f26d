"""Near names: what a user may have meant by a name that does not exist."""

import difflib
from collections.abc import Iterable

_NEAREST, _CUTOFF = 3, 0.7
"""How many names, and of which similarity at least: `gpu` is no misspelt `cpu`."""


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
    close = difflib.get_close_matches(name.casefold(), by_folded, n=_NEAREST, cutoff=_CUTOFF)
    return [by_folded[folded] for folded in close]
