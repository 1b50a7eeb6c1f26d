"""Names in captions: how many captions of the corpus say each name and synonym of a domain, and the
classes that none names.

Names are counted since a model knows a class best by the one that captions use most (REAL, Parashar
et al. 2024, arXiv 2401.12425). The pairs of an unnamed class are whatever is nearest, so a misspelt
name trains on images of something else. That a class is unnamed is exact; near words are looked for
in the first captions, so their cost does not grow with the corpus.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from react_pipeline.embedding import row_metadata
from react_pipeline.lineage import fresh
from react_pipeline.project import Project, cluster, spread
from react_pipeline.settings import DomainConfig, near_names
from react_pipeline.store import Artifact, Scratch

NAMES = "names.parquet"
COUNTS = "names.npy"
"""File of a scratch with the counts of names."""
_BATCH_ROWS, _TASK_ROWS = 65_536, 1_000_000
_READ_ROWS = 1_000_000
"""Captions that near words are looked for in."""
_MOST_SEARCHED, _MOST_LISTED = 100, 10
"""Classes that near words are looked for, and that a message lists."""
_LENGTHS = 2
"""Near words are longer or shorter by this many letters at most."""


def domain_names(project: Project, slug: str) -> pd.DataFrame:
    """Return the counts of a domain's names in the corpus, as `count_names`."""
    with cluster(project.config.distributor):
        return count_names(project.domain(slug), fresh(project, "corpus_embeddings"))


def count_names(
    domain: DomainConfig, embeddings: Artifact, scratch: Scratch | None = None
) -> pd.DataFrame:
    """Count all names of a domain in one scan of the captions, here or on a cluster.

    Args:
        scratch: Where the counts are kept, and may be already.

    Returns:
        Columns class_id, class (its label), name, captions (how many say it); a row a name, the
        first name first.
    """
    names = tabulate_names(domain)

    def count() -> NDArray[Any]:
        return count_in_corpus(embeddings, [names["name"].tolist()])[0]

    if scratch is None:
        return names.assign(captions=count())
    kept = scratch.keep(COUNTS, lambda path: np.save(path, count()))
    return names.assign(captions=np.load(kept))


def tabulate_names(domain: DomainConfig) -> pd.DataFrame:
    """Return columns class_id, class and name; a row a name, the first name of a class first."""
    classes = [(entry.label, [entry.name, *entry.synonyms]) for entry in domain.classes]
    names = pd.DataFrame(classes, columns=["class", "name"]).explode("name")
    return names.rename_axis("class_id").reset_index()


def count_naming(domain: DomainConfig, captions: Sequence[str | None]) -> int:
    """Return how many captions say a name of a class, as `said_in`."""
    words = split_words(pa.array(captions, pa.string(), from_pandas=True))
    return len(np.unique(said_in(words, list(tabulate_names(domain)["name"]))[0]))


def count_in_corpus(embeddings: Artifact, groups: Sequence[list[str]]) -> list[NDArray[Any]]:
    """Count the captions of a corpus that say each name (N,), for each group, as `said_in`."""
    task = partial(_count_in_rows, embeddings, groups)
    parts = spread(task, _tasks(embeddings), "counting names")
    return [np.stack(of_group).sum(axis=0) for of_group in zip(*parts, strict=True)]


def said_in_corpus(embeddings: Artifact, groups: Sequence[list[str]]) -> list[NDArray[Any]]:
    """Return numbers of captions and of names (2, n) of a corpus for each group, as `said_in`."""
    task = partial(_said_in_rows, embeddings, groups)
    parts = spread(task, _tasks(embeddings), "looking for names")
    return [np.concatenate(of_group, axis=1) for of_group in zip(*parts, strict=True)]


def _tasks(embeddings: Artifact) -> list[tuple[int, int]]:
    rows = int(embeddings.counts["rows"])
    return [(start, min(start + _TASK_ROWS, rows)) for start in range(0, rows, _TASK_ROWS)]


def _count_in_rows(
    embeddings: Artifact, groups: Sequence[list[str]], rows: tuple[int, int]
) -> list[NDArray[Any]]:
    all_said = _said_in_rows(embeddings, groups, rows)
    return [_counts(said, names) for (_, said), names in zip(all_said, groups, strict=True)]


def _said_in_rows(
    embeddings: Artifact, groups: Sequence[list[str]], rows: tuple[int, int]
) -> list[NDArray[Any]]:
    captions = read_captions(embeddings, rows)
    batches = []
    for start in range(0, len(captions), _BATCH_ROWS):
        words = split_words(captions.slice(start, _BATCH_ROWS))
        offset = [[rows[0] + start], [0]]
        batches.append([np.stack(said_in(words, names)) + offset for names in groups])
    return [np.concatenate(of_group, axis=1) for of_group in zip(*batches, strict=True)]


def read_captions(embeddings: Artifact, rows: tuple[int, int]) -> pa.Array:
    """Return the captions from the first row number up to the second; some may be null."""
    captions = row_metadata(embeddings, np.arange(*rows), ["caption"])["caption"]
    return pa.array(captions.to_numpy(dtype=object), pa.string(), from_pandas=True)


def _counts(said: NDArray[Any], names: list[str]) -> NDArray[Any]:
    return np.bincount(said, minlength=len(names))[equal_names(names)]


def equal_names(names: list[str]) -> NDArray[Any]:
    """Return for each name the number of the first one with the same words (N,)."""
    texts = _join_words(names)
    return np.asarray(pc.index_in(texts, texts), np.int64)


def _join_words(names: list[str]) -> pa.Array:
    """Return the words of each name, a space between them."""
    split = split_words(pa.array(names, pa.string())).to_pylist()
    return pa.array([" ".join(filter(None, words)) for words in split], pa.string())


def said_in(words: pa.ListArray, names: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Find which captions say which names: numbers of captions and of names, each pair once; of
    names with equal words the first.

    A name is said where its words follow one another; case and punctuation do not matter. Within a
    longer name it is not: "a tiger shark" says neither `tiger` nor `shark`.

    Args:
        words: The words of each caption, from `split_words`; some may be null.
    """
    rows = pc.list_parent_indices(words).to_numpy().astype(np.int64)
    flat = words.flatten()
    texts = _join_words(names)
    distinct = texts.unique()
    split = [text.split() for text in distinct.to_pylist() if text]
    # Few words begin a name.
    firsts = pa.array([parts[0] for parts in split], pa.string())
    starts = np.flatnonzero(pc.is_in(flat, firsts))
    said = [np.empty((3, 0), np.int64)]
    for length in sorted(set(map(len, split))):
        starts = starts[starts + length <= len(flat)]
        starts = starts[rows[starts] == rows[starts + length - 1]]
        runs = pc.binary_join_element_wise(
            *(flat.take(starts + place) for place in range(length)), " "
        )
        text = pc.fill_null(pc.index_in(runs, distinct), -1).to_numpy()
        said.append(np.stack([starts, starts + length, text])[:, text >= 0])
    start, end, text = np.concatenate(said, axis=1)
    order = np.lexsort((-end, start))
    start, end, text = start[order], end[order], text[order]
    # What ends no later than one before it, which starts no later, is within that one.
    whole = np.append(True, end[1:] > np.maximum.accumulate(end)[:-1])[: len(end)]
    name = np.asarray(pc.index_in(distinct, texts), np.int64)[text[whole]]
    once = np.unique(rows[start[whole]] * len(texts) + name)
    return once // len(texts), once % len(texts)


def split_words(texts: pa.Array) -> pa.ListArray:
    """Return the words of each text in lower case; empty ones where it begins or ends otherwise."""
    return pc.split_pattern_regex(
        pc.utf8_lower(pc.utf8_normalize(texts, form="NFC")), pattern=r"[^\pL\pM\pN]+"
    )


def describe_classes(
    domain: DomainConfig,
    embeddings: Artifact,
    classes: pd.DataFrame,
    directory: Path,
    scratch: Scratch,
) -> tuple[dict[str, Any], str]:
    """Write how many captions say each name into a directory, and into the table of classes.

    Returns:
        Counts for the manifest, and a warning of classes that no caption names, or "".
    """
    names = count_names(domain, embeddings, scratch)
    names.to_parquet(directory / NAMES, index=False)
    texts = names["name"] + " " + names["captions"].map("{:,}".format)
    classes["names"] = texts.groupby(names["class_id"]).agg("; ".join)
    unnamed = unnamed_classes(names, embeddings)
    if unnamed is None:
        return {}, ""
    counts: dict[str, Any] = {"unnamed": list(unnamed), "near_names": list(unnamed.values())}
    return counts, unnamed_message(*counts.values()) if unnamed else ""


def unnamed_classes(names: pd.DataFrame, embeddings: Artifact) -> dict[str, str] | None:
    """Map the label of each class that no caption names to the nearest name that captions say, ""
    if none is near.

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
    """Return one sentence for people; `near` are the values of `unnamed_classes`."""
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
    """Return whether captions say each name: `count_names` leaves out `bear` in "a polar bear" if
    that is a name too.
    """
    words = split_words(pa.array(names["name"], pa.string())).to_pylist()
    texts = pd.Series([f" {' '.join(filter(None, text))} " for text in words], names.index)
    all_texts = "\n".join(texts[names["captions"] > 0])
    return texts.map(lambda text: text in all_texts)


def _caption_words(embeddings: Artifact) -> pa.Array:
    """Return the distinct words of the first `_READ_ROWS` captions."""
    rows = min(int(embeddings.counts["rows"]), _READ_ROWS)
    words = pc.unique(split_words(read_captions(embeddings, (0, rows))).flatten())
    return words.filter(pc.greater(pc.utf8_length(words), 0))


def _nearest(name: str, words: pa.Array) -> str:
    """Return the name with each word that no caption has replaced by the nearest that one has; ""
    if there is none.
    """
    (parts,) = split_words(pa.array([name], pa.string())).to_pylist()
    parts = [part for part in parts if part]
    near = []
    for part in parts:
        # Most typing errors keep the first letter.
        difference = pc.abs(pc.subtract(pc.utf8_length(words), len(part)))
        alike = pc.and_(pc.starts_with(words, part[0]), pc.less_equal(difference, _LENGTHS))
        others = set(words.filter(alike).to_pylist())
        near.append(part if part in others else next(iter(near_names(part, others)), ""))
    return " ".join(near) if near != parts and all(near) else ""
