"""Searching all queries at once: one pass over the stored vectors, or over the cells of an index.

Belongs here: which rows are compared with which queries. Does not belong here: comparing and
ranking (`indexing.best`), which of the two ways is taken (`indexing.scan`). Shapes: Q queries, N
rows, D width.

The exact pass reads each vector once, in order, mapped from disk. Cell by cell, each cell of an
index is decoded once and compared with all queries that visit it; a search query by query decodes
it once for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from react_pipeline.embedding import UNIT_TOLERANCE, Rows, Vectors
from react_pipeline.indexing.best import best_hits, rank_exactly
from react_pipeline.indexing.vectors import StoredVectors

if TYPE_CHECKING:
    from torch import Tensor

FEW_QUERIES = 64
"""Up to here reading the vectors takes longer than comparing them, and a fast type gains nothing.
"""
_BLOCK_ROWS = 16_384


def product_precision(queries: int, device: str) -> str:
    """The type in which products are fastest; hits are the same in all of them."""
    from react_pipeline.clip import choose_precision

    if queries <= FEW_QUERIES:
        return "fp32"
    # Vectors are stored in half precision, so on a GPU rounding does not move them.
    return choose_precision("auto", "cpu") if device == "cpu" else "fp16"


def exact_hits(
    stored: StoredVectors,
    queries: Vectors,
    k: int,
    *,
    device: str = "cpu",
    rows: tuple[int, int] | None = None,
) -> tuple[Vectors, Rows]:
    """The k rows most similar to each query, by one pass over the vectors.

    Args:
        queries: Unit rows (Q, D).
        k: Hits per query.
        device: Where products are computed: `cpu` or `cuda`.
        rows: Start and stop of the rows to search; None: all.

    Returns:
        Similarities and rows (Q, k), as from `best_hits`.

    Raises:
        InputError: If a vector is not finite or not of unit length.
    """
    first_row, last_row = rows or (0, stored.rows)

    def blocks() -> Iterator[tuple[int, Tensor]]:
        bar = tqdm(total=last_row - first_row, desc="comparing rows", disable=None, leave=False)
        with bar:
            for first, block in stored.blocks(first_row, last_row, _BLOCK_ROWS):
                yield first, _unit_rows(stored, first, block, device)
                bar.update(len(block))

    precision = product_precision(len(queries), device)
    return best_hits(queries, k, blocks, stored.take, precision, device)


def _unit_rows(stored: StoredVectors, first: int, block: Any, device: str) -> Tensor:
    """A mapped block in memory, in single precision and checked."""
    import torch

    vectors = torch.from_numpy(np.array(block)).to(device).float()
    # A NaN compares as false.
    if not bool(((vectors.norm(dim=1) - 1).abs() < UNIT_TOLERANCE).all()):
        stored.refuse_bad(np.arange(first, first + len(block)), block.astype(np.float32))
    return vectors


def nearest(queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
    """Like `exact_hits`, but searches vectors (N, D) in memory, on the CPU."""
    import torch

    def blocks() -> Iterator[tuple[int, Tensor]]:
        for first in range(0, len(vectors), _BLOCK_ROWS):
            yield first, torch.from_numpy(vectors[first : first + _BLOCK_ROWS])

    queries = np.ascontiguousarray(queries)
    precision = product_precision(len(queries), "cpu")
    return best_hits(queries, k, blocks, lambda rows: vectors[rows], precision)


def has_whole_cells(index: Any) -> bool:
    """Whether `cell_hits` can search an index: its cells store vectors, not residuals."""
    import faiss

    outer = faiss.downcast_index(index)
    return isinstance(outer, faiss.IndexIVFFlat) or (
        isinstance(outer, faiss.IndexIVFScalarQuantizer) and not outer.by_residual
    )


def cell_hits(
    index: Any, queries: Vectors, k: int, rerank: int, stored: StoredVectors
) -> tuple[Vectors, Rows]:
    """Search an index that `has_whole_cells`: the hits of `find_rows`, computed cell by cell.

    Args:
        index: In main memory or mapped; its parameters are set.
        queries: Unit rows (Q, D).
        k: Hits per query.
        rerank: So many times k hits are ranked again by the stored vectors.

    Returns:
        Similarities and rows (Q, k), as of `best_hits`.
    """
    import faiss
    from faiss.contrib.big_batch_search import big_batch_search

    _, rows = big_batch_search(faiss.downcast_index(index), queries, k * rerank)
    query, place = np.nonzero(rows >= 0)
    return rank_exactly(queries, query, rows[query, place], stored.take, k)
