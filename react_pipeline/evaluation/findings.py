"""Findings: what is said of a comparison, and of which method.

The method spoken of is fixed beforehand (`gated-image` where it was measured): the best of many
methods is partly the luckiest one. Does not belong here: the sentences (extensions).
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from react_pipeline.evaluation.tables import interval_text
from react_pipeline.settings import CONTROL_SUFFIX, first_seed

HEADLINE_METHOD = "gated-image"
"""The paper's own, and the one that is spoken of where it was measured."""


@dataclass(frozen=True)
class Finding:
    """A headline and the sentences below it; `method` is the one they speak of ("" if none was
    measured).
    """

    method: str
    headline: str
    details: tuple[str, ...]


def is_trained(name: str) -> bool:
    """Whether it is a trained method by its first seed: neither the base nor a control."""
    return name != "base" and not name.endswith(CONTROL_SUFFIX) and first_seed(name) == name


def headline_method(table: pd.DataFrame) -> str:
    """Return the trained method that a report speaks of: `gated-image`, else the first that was
    measured, else "".
    """
    trained = [name for name in table.loc[table["top1"].notna(), "method"] if is_trained(name)]
    return HEADLINE_METHOD if HEADLINE_METHOD in trained else next(iter(trained), "")


def interval_in_words(low: float, high: float) -> str:
    """Return an interval in points as sentences name it."""
    text = interval_text(low, high)
    return f"95% interval {text}" if text else "no interval"
