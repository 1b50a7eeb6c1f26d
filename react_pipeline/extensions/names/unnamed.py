"""Unnamed classes: those that no caption of the corpus names, with the nearest words of the
captions.

Their pairs are whatever is nearest, so a misspelt name trains on images of something else. That a
class is unnamed is exact, of `name_counts`: a name that captions say only within a longer one of
the domain is said too. Near words are looked for in the first captions, so their cost does not grow
with the corpus: `_READ_ROWS` captions at most, and `_MOST_SEARCHED` classes.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from react_pipeline.extensions.names.name_counts import (
    NAMES,
    count_names,
    read_captions,
    words_of,
)
from react_pipeline.retrieval import ClassNotes, ClassTable
from react_pipeline.settings import near_names
from react_pipeline.store import Artifact

_READ_ROWS = 1_000_000
_MOST_SEARCHED = 100
"""Classes; of further ones no near words are looked for."""
_MOST_LISTED = 10
_LENGTHS = 2
"""Near words are longer or shorter by this many letters at most."""


def describe_classes(table: ClassTable) -> ClassNotes:
    """Write how many captions say each name, also into the table of classes; warns of classes that
    none names.
    """
    names = count_names(table.domain, table.embeddings, table.scratch)
    names.to_parquet(table.directory / NAMES, index=False)
    texts = names["name"] + " " + names["captions"].map("{:,}".format)
    table.classes["names"] = texts.groupby(names["class_id"]).agg("; ".join)
    unnamed = unnamed_classes(names, table.embeddings)
    if unnamed is None:
        return ClassNotes({}, "")
    counts: dict[str, Any] = {"unnamed": list(unnamed), "near_names": list(unnamed.values())}
    return ClassNotes(counts, unnamed_message(*counts.values()) if unnamed else "")


def unnamed_classes(names: pd.DataFrame, embeddings: Artifact) -> dict[str, str] | None:
    """The label of each class that no caption names -> the nearest name that captions say, "" if
    none is near.

    Args:
        names: From `count_names`.

    Returns:
        None if the corpus has no captions.
    """
    is_said = _are_said(names).groupby(names["class_id"]).transform("any")
    groups = [group for _, group in names[~is_said].groupby("class_id", sort=True)]
    if not groups:
        return {}
    texts = [name for group in groups[:_MOST_SEARCHED] for name in group["name"]]
    words = _caption_words(embeddings)
    if not len(words):
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
    all_texts = "\n".join(texts[names["captions"] > 0])
    return texts.map(lambda text: text in all_texts)


def _caption_words(embeddings: Artifact) -> pa.Array:
    """The distinct words of the first `_READ_ROWS` captions."""
    rows = min(int(embeddings.counts["rows"]), _READ_ROWS)
    words = pc.unique(words_of(read_captions(embeddings, (0, rows))).flatten())
    return words.filter(pc.greater(pc.utf8_length(words), 0))


def _near_words(words: pa.Array, word: str) -> set[str]:
    """The words that may be near: most typing errors keep the first letter or the last two."""
    alike = pc.or_(pc.starts_with(words, word[0]), pc.ends_with(words, word[-2:]))
    difference = pc.abs(pc.subtract(pc.utf8_length(words), len(word)))
    return set(words.filter(pc.and_(alike, pc.less_equal(difference, _LENGTHS))).to_pylist())


def _nearest(name: str, words: pa.Array) -> str:
    """The name with each word that no caption has replaced by the nearest that one has; "" if there
    is none.
    """
    (parts,) = words_of(pa.array([name], pa.string())).to_pylist()
    parts = [part for part in parts if part]
    near = []
    for part in parts:
        others = _near_words(words, part)
        near.append(part if part in others else next(iter(near_names(part, others)), ""))
    return " ".join(near) if near != parts and all(near) else ""
