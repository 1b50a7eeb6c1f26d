"""Unnamed classes: those that no caption of the corpus names, with the nearest words of the
captions.

Their pairs are whatever is nearest, so a misspelt name trains on images of something else. That a
class is unnamed is exact, of `name_counts`: a name that captions say only within a longer one of
the domain is said too. Near words are looked for in a sample of the captions, so their cost does
not grow with the corpus: `_SAMPLE_ROWS` captions at most, here or on a cluster, and
`_MOST_SEARCHED` classes.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from react_pipeline.project import spread
from react_pipeline.retrieval.name_counts import read_captions, words_of
from react_pipeline.settings import DistributorConfig, near_names
from react_pipeline.store import Artifact

_SAMPLE_ROWS, _TASK_ROWS = 2_000_000, 250_000
_MOST_SEARCHED = 100
"""Classes; of further ones no near words are looked for."""
_MOST_LISTED = 10
_LENGTHS = 2
"""Near words are longer or shorter by this many letters at most."""


def unnamed_classes(
    names: pd.DataFrame, embeddings: Artifact, distributor: DistributorConfig
) -> dict[str, str] | None:
    """The label of each class that no caption names -> the nearest name that captions say, "" if
    none is near.

    Args:
        names: Of `count_names`.

    Returns:
        None if the corpus has no captions.
    """
    is_said = _are_said(names).groupby(names["class_id"]).transform("any")
    groups = [group for _, group in names[~is_said].groupby("class_id", sort=True)]
    if not groups:
        return {}
    texts = [name for group in groups[:_MOST_SEARCHED] for name in group["name"]]
    words = _near_words(texts, embeddings, distributor)
    if words is None:
        return None
    near = {name: _nearest(name, words) for name in texts}
    return {
        group["class"].iloc[0]: next(filter(None, map(near.get, group["name"])), "")
        for group in groups
    }


def unnamed_message(unnamed: Sequence[str], near: Sequence[str]) -> str:
    """One sentence for people; `near` are the values of `unnamed_classes`."""
    named = [
        f"{label} (did you mean {name}?)" if name else label
        for label, name in zip(unnamed, near, strict=True)
    ]
    more = f" and {len(named) - _MOST_LISTED:,} more" if len(named) > _MOST_LISTED else ""
    return (
        f"no caption of the corpus says {', '.join(named[:_MOST_LISTED])}{more}: such a class is "
        "trained on whatever is nearest; correct its name, or add a synonym that captions use"
    )


def _are_said(names: pd.DataFrame) -> pd.Series:
    """Whether captions say each name: `count_names` leaves out `bear` in "a polar bear" if that is
    a name too.
    """
    words = words_of(pa.array(names["name"], pa.string())).to_pylist()
    texts = pd.Series([f" {' '.join(filter(None, text))} " for text in words], names.index)
    said = "\n".join(texts[names["captions"] > 0])
    return texts.map(lambda text: text in said)


def _near_words(
    names: list[str], embeddings: Artifact, distributor: DistributorConfig
) -> dict[str, set[str]] | None:
    """For each word of the names the words of captions that may be near; None if no caption has a
    word.
    """
    rows = int(embeddings.counts["rows"])
    count = -(-min(rows, _SAMPLE_ROWS) // _TASK_ROWS)
    starts = np.linspace(0, max(rows - _TASK_ROWS, 0), count, dtype=np.int64).tolist()
    items = [(start, min(start + _TASK_ROWS, rows)) for start in starts]
    words = sorted(
        {
            word
            for text in words_of(pa.array(names, pa.string())).to_pylist()
            for word in text
            if word
        }
    )
    found = spread(
        partial(_near_in_rows, embeddings, words), items, distributor, "looking for near names"
    )
    if not any(size for size, _ in found):
        return None
    return {word: set().union(*(near[word] for _, near in found)) for word in words}


def _near_in_rows(
    embeddings: Artifact, words: list[str], rows: tuple[int, int]
) -> tuple[int, dict[str, set[str]]]:
    """How many words the captions of some rows have, and for each of `words` those that may be
    near.
    """
    distinct: Any = pc.unique(words_of(read_captions(embeddings, rows)).flatten())
    distinct = distinct.filter(pc.greater(pc.utf8_length(distinct), 0))
    lengths, near = pc.utf8_length(distinct), {}
    for word in words:
        # Most slips of the pen leave the first letter or the last two as they were.
        alike = pc.or_(pc.starts_with(distinct, word[0]), pc.ends_with(distinct, word[-2:]))
        is_near = pc.and_(alike, pc.less_equal(pc.abs(pc.subtract(lengths, len(word))), _LENGTHS))
        near[word] = set(distinct.filter(is_near).to_pylist())
    return len(distinct), near


def _nearest(name: str, words: Mapping[str, set[str]]) -> str:
    """The name with each word that no caption has replaced by the nearest that one has; "" if there
    is none.
    """
    (own,) = words_of(pa.array([name], pa.string())).to_pylist()
    own = [word for word in own if word]
    near = [
        word if word in words[word] else next(iter(near_names(word, words[word])), "")
        for word in own
    ]
    return " ".join(near) if near != own and all(near) else ""
