"""FAISS indices as files and as objects: mapping, parameters, and searching with re-ranking.

Does not belong here: training one and adding rows (`indexing.build`). Shapes: Q queries, K hits, D
width.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from react_pipeline.embedding import Rows, Vectors
from react_pipeline.indexing.exact import StoredVectors, rank_exactly
from react_pipeline.stage import FAISS_INDEX
from react_pipeline.store import CorruptArtifact

HITS_AT_ONCE = 1_000_000
"""Hits that are ranked at a time: about 30 MB."""


def read_index(path: Path) -> Any:
    """Map an index: vectors, cells and graph stay in the file, whose pages a search reads and gives
    up again. Nothing can be added to it.

    Raises:
        CorruptArtifact: If FAISS cannot read it.
    """
    import faiss

    try:
        # `IO_FLAG_MMAP` would map cells only.
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        raise CorruptArtifact(
            f"{path}: FAISS cannot read it ({str(error).splitlines()[0]}); rematerialize "
            f"`{FAISS_INDEX}`"
        ) from error


def set_parameters(index: Any, parameters: str) -> None:
    """Set what trades speed for recall, such as `nprobe=8`."""
    import faiss

    faiss.ParameterSpace().set_index_parameters(index, parameters)


def innermost(index: Any) -> Any:
    """Return the index behind rotations and maps of row numbers."""
    import faiss

    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap | faiss.IndexIDMap2):
        index = faiss.downcast_index(index.index)
    return index


def inverted_lists(index: Any) -> Any | None:
    """Return the index of cells inside, or None if it has none."""
    import faiss

    inner = innermost(index)
    return inner if isinstance(inner, faiss.IndexIVF) else None


def find_rows(
    index: Any, queries: Vectors, k: int, rerank: int = 1, stored: StoredVectors | None = None
) -> tuple[Vectors, Rows]:
    """Search an index query by query, and rank again by the stored vectors.

    Args:
        index: A FAISS index of inner products.
        queries: Unit rows (Q, D).
        k: Hits per query; capped by the index.
        rerank: So many times k hits are fetched.
        stored: The vectors; without them its own similarities, which may be coarse, decide.

    Returns:
        Similarities and rows (Q, K), best first; minus infinity and -1 where no hit was found.
    """
    k = min(k, index.ntotal)
    wanted = min(k * rerank, index.ntotal)
    found = []
    for part in np.array_split(queries, len(queries) * wanted // HITS_AT_ONCE + 1):
        similarities, rows = index.search(part, wanted)
        if stored is not None:
            query, place = np.nonzero(rows >= 0)
            similarities, rows = rank_exactly(part, query, rows[query, place], stored, k)
        found.append((np.where(rows < 0, -np.inf, similarities), rows))
    similarities, rows = map(np.concatenate, zip(*found, strict=True))
    return similarities, rows


def has_whole_cells(index: Any) -> bool:
    """Return whether `cell_hits` can search an index: its cells store vectors, not residuals."""
    import faiss

    lists = faiss.downcast_index(index)
    kinds = faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer
    return isinstance(lists, kinds) and not lists.by_residual


def cell_hits(
    index: Any, queries: Vectors, k: int, rerank: int, stored: StoredVectors
) -> tuple[Vectors, Rows]:
    """Find the hits of `find_rows` in an index that `has_whole_cells`, for many queries at once.

    Each cell is decoded once and compared with all queries that visit it; query by query it is
    decoded for each of them.
    """
    import faiss
    from faiss.contrib.big_batch_search import big_batch_search

    with redirect_stdout(None):  # it prints a line a cell, whatever `verbose` is
        _, rows = big_batch_search(faiss.downcast_index(index), queries, k * rerank)
    query, place = np.nonzero(rows >= 0)
    return rank_exactly(queries, query, rows[query, place], stored, k)
