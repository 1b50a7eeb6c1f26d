"""Names in captions: how many captions of the corpus say each name and synonym of a domain.

Names are counted since a model knows a class best by the one that captions use most (REAL, Parashar
et al. 2024, arXiv 2401.12425).
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from react_pipeline.embedding import row_metadata
from react_pipeline.lineage import fresh
from react_pipeline.project import Project, spread
from react_pipeline.settings import DistributorConfig, DomainConfig
from react_pipeline.store import Artifact

NAMES = "names.parquet"
_BATCH_ROWS, _TASK_ROWS = 65_536, 1_000_000


def domain_names(project: Project, slug: str) -> pd.DataFrame:
    """The counts of a domain's names, as `count_names`: of its retrieved set, or else counted now.

    Those of a retrieved set hold for the same captions and names; which name comes first does not
    matter.
    """
    domain = project.domain(slug)
    embeddings = fresh(project, "corpus_embeddings")
    kept = (
        project.store.current("retrieved_set", slug)
        if project.store.has("retrieved_set", slug)
        else None
    )
    if (
        kept
        and kept.parents["corpus_embeddings"] == embeddings.fingerprint
        and NAMES in kept.manifest["files"]
    ):
        names = _names_of(domain)
        counts = pd.read_parquet(kept.file(NAMES)).set_index(["class_id", "name"])["captions"]
        pairs = list(zip(names["class_id"], names["name"], strict=True))
        if set(pairs) == set(counts.index):
            return names.assign(captions=counts[pairs].to_numpy())
    return count_names(domain, embeddings, project.config.distributor)


def count_names(
    domain: DomainConfig, embeddings: Artifact, distributor: DistributorConfig
) -> pd.DataFrame:
    """Count all names of a domain in one scan of the captions, here or on a cluster.

    Returns:
        Columns class_id, class (its label), name, captions (how many say it); a row a name, the
        first name first.
    """
    names = _names_of(domain)
    counts = spread(
        partial(_count_rows, embeddings, names["name"].tolist()),
        _tasks(embeddings),
        distributor,
        "counting names",
    )
    return names.assign(captions=np.sum(counts, axis=0, dtype=np.int64) if counts else 0)


def _names_of(domain: DomainConfig) -> pd.DataFrame:
    classes = [(entry.label, [entry.name, *entry.synonyms]) for entry in domain.classes]
    names = pd.DataFrame(classes, columns=["class", "name"]).explode("name")
    return names.rename_axis("class_id").reset_index()


def said_in_corpus(
    embeddings: Artifact, names: list[str], distributor: DistributorConfig
) -> tuple[NDArray[Any], NDArray[Any]]:
    """As `said_in`, of all captions of a corpus."""
    task = partial(_said_in_rows, embeddings, names)
    parts = spread(task, _tasks(embeddings), distributor, "looking for names")
    found = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
    return found[0], found[1]


def _tasks(embeddings: Artifact) -> list[tuple[int, int]]:
    rows = int(embeddings.counts["rows"])
    return [(start, min(start + _TASK_ROWS, rows)) for start in range(0, rows, _TASK_ROWS)]


def _count_rows(embeddings: Artifact, names: list[str], rows: tuple[int, int]) -> NDArray[Any]:
    _, said = _said_in_rows(embeddings, names, rows)
    return _counts(said, names)


def _said_in_rows(embeddings: Artifact, names: list[str], rows: tuple[int, int]) -> NDArray[Any]:
    captions = read_captions(embeddings, rows)
    parts = [
        np.stack(said_in(captions.slice(start, _BATCH_ROWS), names)) + [[rows[0] + start], [0]]
        for start in range(0, len(captions), _BATCH_ROWS)
    ]
    return np.concatenate(parts, axis=1)


def read_captions(embeddings: Artifact, rows: tuple[int, int]) -> pa.Array:
    """The captions of rows from the first number up to, not including, the second; some may be
    null.
    """
    captions = row_metadata(embeddings, np.arange(*rows), ["caption"])["caption"]
    return pa.array(captions.to_numpy(dtype=object), pa.string(), from_pandas=True)


def count_in(captions: pa.Array, names: list[str]) -> NDArray[Any]:
    """How many captions say each of N names (N,), as `said_in`."""
    _, said = said_in(captions, names)
    return _counts(said, names)


def _counts(said: NDArray[Any], names: list[str]) -> NDArray[Any]:
    return np.bincount(said, minlength=len(names))[equal_names(names)]


def equal_names(names: list[str]) -> NDArray[Any]:
    """For each of N names the number of the first one with the same words (N,)."""
    texts = _texts_of(names)
    return np.asarray(pc.index_in(texts, texts).to_numpy())


def _texts_of(names: list[str]) -> pa.Array:
    """The words of each name, a space between them."""
    split = words_of(pa.array(names, pa.string())).to_pylist()
    return pa.array([" ".join(filter(None, words)) for words in split], pa.string())


def said_in(captions: pa.Array, names: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which captions, of which some may be null, say which of some names: numbers of captions, and
    of names, each pair once; of names with equal words the first.

    A name is said where its words follow one another; case and punctuation do not matter. Within a
    longer one of the names it is not: "a tiger shark" says neither `tiger` nor `shark`.
    """
    texts = _texts_of(names)
    split = [text.split() for text in texts.to_pylist()]
    firsts = pa.array([words[0] for words in split if words], pa.string())
    words = words_of(captions)
    rows = pc.list_parent_indices(words).to_numpy().astype(np.int64)
    words = words.flatten()
    starts = np.flatnonzero(pc.is_in(words, firsts))
    said = [np.empty((3, 0), np.int64)]
    for length in sorted({len(words) for words in split} - {0}):
        starts = starts[starts + length <= len(words)]
        starts = starts[rows[starts] == rows[starts + length - 1]]
        runs = pc.binary_join_element_wise(
            *(words.take(starts + place) for place in range(length)), " "
        )
        name = pc.fill_null(pc.index_in(runs, texts), -1).to_numpy()
        said.append(np.stack([starts, starts + length, name])[:, name >= 0])
    spans = np.concatenate(said, axis=1)
    start, end, name = spans[:, np.lexsort((-spans[1], spans[0]))]
    # What ends no later than one before it, which starts no later, is within that one.
    whole = np.append(True, end[1:] > np.maximum.accumulate(end)[:-1])[: len(end)]
    once = np.unique(rows[start[whole]] * len(names) + name[whole])
    return once // len(names), once % len(names)


def words_of(texts: pa.Array) -> pa.ListArray:
    """The words of each text in lower case, with empty ones where it begins or ends with something
    else.
    """
    return pc.split_pattern_regex(
        pc.utf8_lower(pc.utf8_normalize(texts, form="NFC")), pattern=r"[^\pL\pM\pN]+"
    )
