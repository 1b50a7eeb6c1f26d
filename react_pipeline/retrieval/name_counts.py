"""Names in captions: how many captions of the corpus say each name and synonym of a domain.

Names are counted since a model knows a class best by the one that captions use most (REAL, Parashar
et al. 2024, arXiv 2401.12425).
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from react_pipeline.embedding import row_metadata
from react_pipeline.indexing import kept_array
from react_pipeline.lineage import fresh
from react_pipeline.project import Project, spread
from react_pipeline.settings import DistributorConfig, DomainConfig
from react_pipeline.store import Artifact

NAMES = "names.parquet"
COUNTS = "names.npy"
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
    domain: DomainConfig,
    embeddings: Artifact,
    distributor: DistributorConfig,
    scratch: Path | None = None,
) -> pd.DataFrame:
    """Count all names of a domain in one scan of the captions, here or on a cluster.

    Args:
        scratch: Where the counts are kept, and may be already.

    Returns:
        Columns class_id, class (its label), name, captions (how many say it); a row a name, the
        first name first.
    """
    names = _names_of(domain)

    def count() -> NDArray[Any]:
        (counts,) = count_in_corpus(embeddings, [names["name"].tolist()], distributor)
        return counts

    return names.assign(captions=kept_array(scratch / COUNTS, count) if scratch else count())


def keep_counts(
    domains: Sequence[DomainConfig],
    scratches: Sequence[Path],
    embeddings: Artifact,
    distributor: DistributorConfig,
) -> None:
    """Count the names of several domains in one scan; `count_names` finds them in its scratch."""
    groups = [_names_of(domain)["name"].tolist() for domain in domains]
    all_counts = count_in_corpus(embeddings, groups, distributor)
    for scratch, counts in zip(scratches, all_counts, strict=True):
        kept_array(scratch / COUNTS, partial(np.copy, counts))


def _names_of(domain: DomainConfig) -> pd.DataFrame:
    classes = [(entry.label, [entry.name, *entry.synonyms]) for entry in domain.classes]
    names = pd.DataFrame(classes, columns=["class", "name"]).explode("name")
    return names.rename_axis("class_id").reset_index()


def count_in_corpus(
    embeddings: Artifact, groups: Sequence[list[str]], distributor: DistributorConfig
) -> list[NDArray[Any]]:
    """How many captions of a corpus say each name of several groups, as `said_in`."""
    task = partial(_count_rows, embeddings, groups)
    parts = spread(task, _tasks(embeddings), distributor, "counting names")
    names = sum(map(len, groups))
    counts = np.sum(parts, axis=0, dtype=np.int64) if parts else np.zeros(names, np.int64)
    return np.split(counts, _starts(groups)[1:-1])


def said_in_corpus(
    embeddings: Artifact, groups: Sequence[list[str]], distributor: DistributorConfig
) -> list[NDArray[Any]]:
    """As `said_in`, of all captions of a corpus: for each group numbers of captions and of its
    names (2, n).
    """
    task = partial(_said_in_rows, embeddings, groups)
    parts = spread(task, _tasks(embeddings), distributor, "looking for names")
    rows, said = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
    of_groups = []
    starts = _starts(groups)
    for start, end in pairwise(starts):
        mine = (said >= start) & (said < end)
        of_groups.append(np.stack([rows[mine], said[mine] - start]))
    return of_groups


def _starts(groups: Sequence[list[str]]) -> list[int]:
    """The number of the first name of each group, and of all names."""
    return [0, *accumulate(map(len, groups))]


def _tasks(embeddings: Artifact) -> list[tuple[int, int]]:
    rows = int(embeddings.counts["rows"])
    return [(start, min(start + _TASK_ROWS, rows)) for start in range(0, rows, _TASK_ROWS)]


def _count_rows(
    embeddings: Artifact, groups: Sequence[list[str]], rows: tuple[int, int]
) -> NDArray[Any]:
    _, said = _said_in_rows(embeddings, groups, rows)
    return _counts(said, groups)


def _said_in_rows(
    embeddings: Artifact, groups: Sequence[list[str]], rows: tuple[int, int]
) -> NDArray[Any]:
    captions = read_captions(embeddings, rows)
    parts = [
        np.stack(said_in(captions.slice(start, _BATCH_ROWS), *groups)) + [[rows[0] + start], [0]]
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
    return _counts(said, [names])


def _counts(said: NDArray[Any], groups: Sequence[list[str]]) -> NDArray[Any]:
    return np.bincount(said, minlength=_starts(groups)[-1])[equal_names(*groups)]


def equal_names(*groups: list[str]) -> NDArray[Any]:
    """For each name the number of the first one of its group with the same words (N,)."""
    texts = _texts_of(groups).dictionary_encode().indices.to_numpy()
    _, first, place = np.unique(
        _group_of(groups) * len(texts) + texts, return_index=True, return_inverse=True
    )
    return np.asarray(first[place])


def _texts_of(groups: Sequence[list[str]]) -> pa.Array:
    """The words of each name, a space between them."""
    names = pa.array(chain.from_iterable(groups), pa.string())
    split = words_of(names).to_pylist()
    return pa.array([" ".join(filter(None, words)) for words in split], pa.string())


def _group_of(groups: Sequence[list[str]]) -> NDArray[Any]:
    return np.repeat(np.arange(len(groups)), list(map(len, groups)))


def said_in(captions: pa.Array, *groups: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which captions, of which some may be null, say which names of some groups: numbers of
    captions, and of names (those of the first group first), each pair once; of names of a group
    with equal words the first.

    A name is said where its words follow one another; case and punctuation do not matter. Within a
    longer name of its group it is not: "a tiger shark" says neither `tiger` nor `shark`.
    """
    texts = _texts_of(groups)
    distinct = texts.unique()
    split = [text.split() for text in distinct.to_pylist()]
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
        text = pc.fill_null(pc.index_in(runs, distinct), -1).to_numpy()
        said.append(np.stack([starts, starts + length, text])[:, text >= 0])
    start, end, text = np.concatenate(said, axis=1)
    # Each run of words, once for each group that has a name of these words.
    names = np.unique(equal_names(*groups))
    codes = pc.index_in(texts, distinct).to_numpy()[names]
    names = names[np.argsort(codes, kind="stable")]
    sharing = np.bincount(codes, minlength=len(distinct))
    run = np.repeat(np.arange(len(text)), sharing[text])
    place = np.arange(len(run)) - np.repeat(np.cumsum(sharing[text]), sharing[text])
    name = names[np.cumsum(sharing)[text[run]] + place]
    start, end = (position[run] + _group_of(groups)[name] * len(words) for position in (start, end))
    order = np.lexsort((-end, start))
    start, end, name = start[order], end[order], name[order]
    # What ends no later than one before it, which starts no later, is within that one.
    whole = np.append(True, end[1:] > np.maximum.accumulate(end)[:-1])[: len(end)]
    once = np.unique(rows[start[whole] % len(words)] * len(texts) + name[whole])
    return once // len(texts), once % len(texts)


def words_of(texts: pa.Array) -> pa.ListArray:
    """The words of each text in lower case, with empty ones where it begins or ends with something
    else.
    """
    return pc.split_pattern_regex(
        pc.utf8_lower(pc.utf8_normalize(texts, form="NFC")), pattern=r"[^\pL\pM\pN]+"
    )
