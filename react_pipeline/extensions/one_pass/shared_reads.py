"""What several domains read of the corpus, read once and left where each looks for it.

Does not belong here: which domains share a pass (`together`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
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
    kept_array,
    scan_exactly,
    write_once,
)
from react_pipeline.retrieval import CANDIDATE_ROWS
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact


def search_together(
    index: Index,
    side: Side,
    searches: Sequence[Search],
    scratch: Path,
) -> list[Hits]:
    """Read the vectors of a side once for several exact searches. `search_all`, called with the
    same queries, k and scratch, takes its hits from there.

    Hits of a query do not depend on the others (`indexing.best`).

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
        path = hits_file(stored, Search(queries, k, search.scratch))
        of_searches.append(kept_array(path, partial(np.copy, part[:, :k])))
    return of_searches


def keep_metadata(
    embeddings: Artifact, rows: Sequence[Rows], columns: list[str], scratches: Sequence[Path]
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
        write_once(scratch / CANDIDATE_ROWS, part.to_parquet)


def keep_counts(
    domains: Sequence[DomainConfig],
    scratches: Sequence[Path],
    embeddings: Artifact,
) -> None:
    """Count the names of several domains in one scan; `count_names` takes them from its scratch."""
    groups = [names_of(domain)["name"].tolist() for domain in domains]
    _keep(scratches, COUNTS, count_in_corpus(embeddings, groups))


def keep_said(
    prompts: Sequence[pd.DataFrame],
    scratches: Sequence[Path],
    embeddings: Artifact,
) -> None:
    """Look for the names of several domains in one scan; `lexical_hits` takes what captions say
    from its scratch.
    """
    if prompts:
        groups = [named_prompts(of_domain)["name"].tolist() for of_domain in prompts]
        _keep(scratches, SAID, said_in_corpus(embeddings, groups))


def _keep(scratches: Sequence[Path], name: str, arrays: Iterable[NDArray[Any]]) -> None:
    for scratch, array in zip(scratches, arrays, strict=True):
        kept_array(scratch / name, partial(np.copy, array))
