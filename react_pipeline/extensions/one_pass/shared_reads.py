"""What several domains read of the corpus, read once and left where each looks for it.

Does not belong here: which domains share a pass (`together`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.embedding import Rows, Side, row_metadata
from react_pipeline.extensions.names import (
    COUNTS,
    SAID,
    count_in_corpus,
    named_prompts,
    names_of,
    said_in_corpus,
)
from react_pipeline.indexing import (
    Hits,
    Index,
    Search,
    hits_file,
    scan_exactly,
)
from react_pipeline.retrieval import CANDIDATE_ROWS
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact, Scratch


def search_together(
    index: Index,
    side: Side,
    searches: Sequence[Search],
    scratch: Scratch,
) -> list[Hits]:
    """Read the vectors of a side once for several exact searches. `search_all`, called with the
    same queries, k and scratch, takes its hits from there.

    Hits of a query do not depend on the others (`indexing.exact`).

    Args:
        scratch: For parts of the result, which a later call with the same searches resumes.

    Returns:
        The hits (Q, k) of each search.
    """
    checked = [index.checked(search.queries, search.k) for search in searches]
    most = min(max(search.k for search in searches), index.rows)
    hits = scan_exactly(index, side, Search(np.concatenate(checked), most, scratch))
    parts = np.split(hits, np.cumsum([len(queries) for queries in checked])[:-1])
    stored = index.stored_vectors(side)
    of_searches = []
    for queries, search, part in zip(checked, searches, parts, strict=True):
        k = min(search.k, index.rows)
        name = hits_file(stored, queries, k)
        of_searches.append(_keep(search.scratch, name, part[:, :k]))
    return of_searches


def keep_metadata(
    embeddings: Artifact, rows: Sequence[Rows], columns: list[str], scratches: Sequence[Scratch]
) -> None:
    """Read the metadata of the rows of several domains at once, and leave each its own.

    A column is left out where a value is missing: its type would depend on the rows that are read.
    """
    table = row_metadata(embeddings, np.unique(np.concatenate(rows)), columns)
    whole = [name for name in columns if table[name].notna().all()]
    texts = [name for name in columns if pd.api.types.infer_dtype(table[name]) == "string"]
    for scratch, mine in zip(scratches, rows, strict=True):
        part = table.loc[mine, list({**dict.fromkeys(whole), **dict.fromkeys(texts)})]
        part = part[[name for name in part if part[name].notna().all()]]
        scratch.keep(CANDIDATE_ROWS, part.to_parquet)


def keep_counts(
    domains: Sequence[DomainConfig],
    scratches: Sequence[Scratch],
    embeddings: Artifact,
) -> None:
    """Count the names of several domains in one scan; `count_names` takes them from its scratch."""
    groups = [names_of(domain)["name"].tolist() for domain in domains]
    for scratch, counts in zip(scratches, count_in_corpus(embeddings, groups), strict=True):
        _keep(scratch, COUNTS, counts)


def keep_said(
    prompts: Sequence[pd.DataFrame],
    scratches: Sequence[Scratch],
    embeddings: Artifact,
) -> None:
    """Look for the names of several domains in one scan; `lexical_hits` takes what captions say
    from its scratch.
    """
    if prompts:
        groups = [named_prompts(of_domain)["name"].tolist() for of_domain in prompts]
        for scratch, said in zip(scratches, said_in_corpus(embeddings, groups), strict=True):
            _keep(scratch, SAID, said)


def _keep(scratch: Scratch, name: str, array: NDArray[Any]) -> NDArray[Any]:
    return np.load(scratch.keep(name, lambda path: np.save(path, array)))
