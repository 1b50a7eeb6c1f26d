"""Searching all queries at once: one pass over the stored vectors, or over the cells of an index.

Belongs here: which rows are compared with which queries. Does not belong here: comparing and
ranking (`indexing.best`), which of the two ways is taken (`indexing.choice`). Shapes: Q queries, N
rows, D width.

The exact pass reads each vector once, in order, mapped from disk. In list order each cell of an
index is decoded once and compared with all queries that visit it; a search query by query decodes
it once for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from react_pipeline.embedding import Rows, Vectors
from react_pipeline.indexing.best import Best, rank_exactly
from react_pipeline.indexing.files import inverted_lists, rotated
from react_pipeline.indexing.prompts import PromptBest, is_worth
from react_pipeline.indexing.vectors import UNIT_TOLERANCE, StoredVectors

FEW_QUERIES = 64
"""Up to here reading the vectors takes longer than comparing them, and a fast type gains nothing.
"""
_BLOCK_ROWS = 16_384
_FIRST_ROWS = 131_072
"""Rows that are read twice, for thresholds to begin with."""


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
    templates: int = 1,
) -> tuple[Vectors, Rows]:
    """The k rows most similar to each query, by one pass over the vectors.

    Args:
        queries: Unit rows (Q, D).
        k: Hits per query.
        device: Where products are computed: `cpu` or `cuda`.
        rows: The first, and the one behind the last; None: all.
        templates: The queries are names with so many templates each, name by name; 1: any queries.

    Returns:
        Similarities and rows (Q, k), as of `Best.ranked`.

    Raises:
        InputError: If a vector is not finite or not of unit length.
    """
    import torch

    first_row, last_row = rows or (0, stored.rows)
    precision = product_precision(len(queries), device)
    if is_worth(len(queries), templates, last_row - first_row, k, precision, device):
        best: Best = (prompts := PromptBest(queries, k, templates))
        first_rows = stored.blocks(first_row, min(first_row + _FIRST_ROWS, last_row), _BLOCK_ROWS)
        prompts.raise_thresholds(first_rows, stored.take)
    else:
        best = Best(queries, k, precision, device)
    bar = tqdm(total=last_row - first_row, desc="comparing rows", disable=None, leave=False)
    for first, block in stored.blocks(first_row, last_row, _BLOCK_ROWS):
        numbers = np.arange(first, first + len(block))
        lengths = best.see(numbers, torch.from_numpy(np.array(block)))
        # A NaN compares as false.
        if not bool(((lengths - 1).abs() < UNIT_TOLERANCE).all()):
            stored.refuse_bad(numbers, block.astype(np.float32))
        bar.update(len(block))
    bar.close()
    return best.ranked(stored.take)


def nearest(
    queries: Vectors, vectors: Vectors, k: int, device: str = "cpu"
) -> tuple[Vectors, Rows]:
    """As `exact_hits`, among vectors (N, D) in memory."""
    import torch

    best = Best(np.ascontiguousarray(queries), k, product_precision(len(queries), device), device)
    for first in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[first : first + _BLOCK_ROWS]
        best.see(np.arange(first, first + len(block)), torch.from_numpy(block))
    return best.ranked(lambda rows: vectors[rows])


def has_list_order(index: Any) -> bool:
    """Whether cells of an index can be decoded by themselves."""
    import faiss

    lists, outer = inverted_lists(index), faiss.downcast_index(index)
    whole = isinstance(outer, faiss.IndexIVF | faiss.IndexPreTransform)
    return whole and isinstance(
        lists, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer | faiss.IndexIVFPQ
    )


def list_order_hits(
    index: Any,
    queries: Vectors,
    k: int,
    rerank: int,
    stored: StoredVectors,
    device: str = "cpu",
    templates: int = 1,
) -> tuple[Vectors, Rows]:
    """What searching an index of cells query by query gives, cell by cell.

    Args:
        index: In main memory or mapped; its parameters are set.
        queries: Unit rows (Q, D).
        k: Hits per query.
        rerank: So many times k hits are ranked again by the stored vectors.
        device, templates: As of `exact_hits`.

    Returns:
        Similarities and rows (Q, k), as of `Best.ranked`.
    """
    import faiss
    import torch

    lists, asked = inverted_lists(index), rotated(index, queries)
    assert lists is not None  # noqa: S101 - `has_list_order`
    whole = _holds_stored(lists) and not isinstance(
        faiss.downcast_index(index), faiss.IndexPreTransform
    )
    precision = product_precision(len(queries), device) if whole else "fp32"
    wanted = k * (1 if whole else rerank)
    # In bf16 the products of a cell are as fast as the bound, which needs similarities to the
    # centres.
    bound = precision == "fp32" and lists.quantizer.metric_type == faiss.METRIC_INNER_PRODUCT
    bound = bound and is_worth(len(asked), templates, stored.rows, wanted, precision, device)
    best = PromptBest(asked, wanted, templates) if bound else Best(asked, wanted, precision, device)
    for cell, visitors, nearness in _by_cell(lists, asked):
        size = lists.invlists.list_size(cell)
        if not size:
            continue
        # Not copied: they may be mapped, and decoding copies them.
        rows = faiss.rev_swig_ptr(lists.invlists.get_ids(cell), size)
        codes = faiss.rev_swig_ptr(lists.invlists.get_codes(cell), size * lists.code_size).reshape(
            size, -1
        )
        vectors, asking = torch.from_numpy(_decoded(lists, cell, codes)), torch.from_numpy(visitors)
        if isinstance(best, PromptBest):
            centre = torch.from_numpy(lists.quantizer.reconstruct(cell))
            best.see_cell(rows, vectors, asking, centre, torch.from_numpy(nearness))
        else:
            best.see(rows, vectors, asking)
    if whole:
        return best.ranked(stored.take)
    similarities, rows = best.ranked()
    if rerank == 1:
        return similarities, rows
    query, place = np.nonzero(rows >= 0)
    return rank_exactly(queries, query, rows[query, place], stored.take, k)


def _by_cell(lists: Any, queries: Vectors) -> Iterator[tuple[int, Rows, Vectors]]:
    """The cells that queries visit, with these and their products with its centre; each query's
    nearest cell first.

    With a threshold from its nearest cell a query keeps nearly nothing of the others.
    """
    nearness, assigned = lists.quantizer.search(queries, int(lists.nprobe))
    for some in (slice(1), slice(1, None)):
        cells, products, width = (
            assigned[:, some].ravel(),
            nearness[:, some].ravel(),
            assigned[:, some].shape[1],
        )
        order = np.argsort(cells, kind="stable")
        visited, starts = np.unique(cells[order], return_index=True)
        for cell, places in (
            zip(visited.tolist(), np.split(order, starts[1:]), strict=True) if len(order) else ()
        ):
            if cell >= 0:
                yield cell, places // width, products[places]


def _holds_stored(lists: Any) -> bool:
    """Whether its codes are the vectors that were added, so that similarities may be computed from
    those.
    """
    import faiss

    half = (
        isinstance(lists, faiss.IndexIVFScalarQuantizer)
        and lists.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    )
    return isinstance(lists, faiss.IndexIVFFlat) or (half and not lists.by_residual)


def _decoded(lists: Any, cell: int, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
    """The vectors of a cell (n, D)."""
    import faiss

    if isinstance(lists, faiss.IndexIVFFlat):
        return codes.view(np.float32).reshape(len(codes), -1)
    if _holds_stored(lists):
        return codes.view(np.float16)
    decoder = lists.sq if isinstance(lists, faiss.IndexIVFScalarQuantizer) else lists.pq
    vectors: Vectors = decoder.decode(codes)
    return vectors + lists.quantizer.reconstruct(cell) if lists.by_residual else vectors
