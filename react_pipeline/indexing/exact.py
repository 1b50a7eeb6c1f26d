"""Exact search of many queries at once, by products of matrices a block of rows at a time.

Shapes: Q queries, N rows of a block, D width, S rows of a query's shortlist.

A fast type finds a shortlist of each query, which is ranked in double precision. A product in that
type is off by at most a margin, which follows from how far rounding moved the vectors
(Cauchy-Schwarz). Where even the worst of the shortlist is within it of the last hit, as with many
equal captions, the query is compared with all rows once more, in single precision. So hits depend
on neither the type, the device nor the blocks: similarity, rounded to float32, descending; equal
ones by row, ascending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from react_pipeline.embedding import UNIT_TOLERANCE, Rows, Vectors
from react_pipeline.indexing.vectors import StoredVectors

if TYPE_CHECKING:
    from torch import Tensor

FEW_QUERIES = 64
"""Up to here reading the vectors takes longer than comparing them, and a fast type gains nothing.
"""
SUMMING_ERROR = 2e-4
"""Of a sum of products in single precision, for unit vectors of up to 1,500 numbers."""
_SPARE_ROWS = 64
"""Rows of a shortlist beside twice the hits: most queries then need no second pass."""
_BLOCK_ROWS = 16_384
_TILE_VALUES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Similarities computed at a time, by device: on a CPU they should stay in its cache."""
_RANKED_AT_ONCE = 2_048


def exact_hits(
    stored: StoredVectors,
    queries: Vectors,
    k: int,
    *,
    device: str = "cpu",
    rows: tuple[int, int] | None = None,
) -> tuple[Vectors, Rows]:
    """Return the k rows most similar to each query, by one pass over the vectors.

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


def nearest(queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
    """Search vectors (N, D) in memory like `exact_hits`, on the CPU."""
    import torch

    def blocks() -> Iterator[tuple[int, Tensor]]:
        for first in range(0, len(vectors), _BLOCK_ROWS):
            yield first, torch.from_numpy(vectors[first : first + _BLOCK_ROWS])

    queries = np.ascontiguousarray(queries)
    precision = product_precision(len(queries), "cpu")
    return best_hits(queries, k, blocks, lambda rows: vectors[rows], precision)


def product_precision(queries: int, device: str) -> str:
    """Return the type in which products are fastest; hits are the same in all of them."""
    from react_pipeline.clip import choose_precision

    if queries <= FEW_QUERIES:
        return "fp32"
    # Vectors are stored in half precision, so on a GPU rounding does not move them.
    return choose_precision("auto", "cpu") if device == "cpu" else "fp16"


def _unit_rows(stored: StoredVectors, first: int, block: Any, device: str) -> Tensor:
    """Return a mapped block in memory, in single precision and checked."""
    import torch

    vectors = torch.from_numpy(np.array(block)).to(device).float()
    # A NaN compares as false.
    if not bool(((vectors.norm(dim=1) - 1).abs() < UNIT_TOLERANCE).all()):
        stored.refuse_bad(np.arange(first, first + len(block)), block.astype(np.float32))
    return vectors


def best_hits(
    queries: Vectors,
    k: int,
    blocks: Callable[[], Iterable[tuple[int, Tensor]]],
    take: Callable[[Rows], Vectors],
    precision: str = "fp32",
    device: str = "cpu",
) -> tuple[Vectors, Rows]:
    """Return the k rows most similar to each query, in the order that the module's text states.

    Args:
        queries: Unit rows (Q, D).
        k: Hits of a query.
        blocks: Called for each pass; gives the first row of each block and its vectors (N, D),
            float32, finite and about of unit length.
        take: Gives the vectors (m, D) of rows, which are distinct and ascending.
        precision: The type of the products: `fp32`, `bf16` or `fp16`.
        device: Where they are computed.

    Returns:
        Similarities and rows (Q, k); minus infinity and -1 where there are fewer.
    """
    from react_pipeline.clip import arithmetic

    with arithmetic():
        values, rows, margin = _shortlist(queries, k, blocks(), precision, device)
        kth = np.partition(values, -k, axis=1)[:, [-k]]
        query, place = np.nonzero((rows >= 0) & (values >= kth - 2 * margin))
        similarities, hits = rank_exactly(queries, query, rows[query, place], take, k)
        worst = values.min(axis=1)
        # Where not all places are taken, every row is in the shortlist.
        crowded = np.flatnonzero((worst > -np.inf) & (worst >= similarities[:, -1] - margin))
        if len(crowded):
            few = queries[crowded]
            pairs = _rows_above(few, similarities[crowded, -1], blocks(), device)
            similarities[crowded], hits[crowded] = rank_exactly(few, *pairs, take, k)
    return similarities, hits


def _shortlist(
    queries: Vectors, k: int, blocks: Iterable[tuple[int, Tensor]], precision: str, device: str
) -> tuple[Vectors, Rows, float]:
    """Return the best products and rows (Q, S) in a fast type, and how far products may be off."""
    import torch

    from react_pipeline.clip import DTYPES

    whole = torch.from_numpy(queries).to(device)
    fast = whole.to(DTYPES[precision])
    values = torch.full((len(fast), 2 * k + _SPARE_ROWS), -torch.inf, device=device).to(fast.dtype)
    rows = torch.full(values.shape, -1, device=device)
    width = values.shape[1]
    row_shift = 0.0
    for first_row, vectors in blocks:
        block = vectors.to(fast.dtype)
        row_shift = max(row_shift, _shift(vectors, block))
        for part in _tiles(len(fast), vectors):
            products = fast[part] @ block.T
            highest = products.topk(min(width, len(block)), dim=1, sorted=False)
            both = torch.cat([values[part], highest.values], dim=1)
            numbers = torch.cat([rows[part], highest.indices + first_row], dim=1)
            best = both.topk(width, dim=1, sorted=False)
            values[part] = best.values
            rows[part] = numbers.gather(1, best.indices)
    # A product is at most about 1, and in a fast type is itself rounded.
    rounding = torch.finfo(fast.dtype).eps / 2
    margin = (1 + UNIT_TOLERANCE) * (_shift(whole, fast) + row_shift + rounding + SUMMING_ERROR)
    return values.float().cpu().numpy(), rows.cpu().numpy(), margin


def _shift(exact: Tensor, fast: Tensor) -> float:
    """Return how far rounding moved a row at most."""
    return float((exact - fast.float()).norm(dim=1).max()) if len(exact) else 0.0


def _tiles(queries: int, vectors: Tensor) -> Iterator[slice]:
    size = max(_TILE_VALUES[vectors.device.type] // len(vectors), 1)
    for start in range(0, queries, size):
        yield slice(start, start + size)


def _rows_above(
    queries: Vectors, least: Vectors, blocks: Iterable[tuple[int, Tensor]], device: str
) -> tuple[Rows, Rows]:
    """Return pairs of a query and a row that are at least so similar (Q,), by products in fp32."""
    import torch

    whole = torch.from_numpy(queries).to(device)
    floor = torch.from_numpy(least).to(device) - SUMMING_ERROR
    pairs = [np.empty((2, 0), np.int64)]
    for first_row, vectors in blocks:
        for part in _tiles(len(whole), vectors):
            above = (whole[part] @ vectors.T >= floor[part, None]).nonzero()
            offset = above.new_tensor([part.start, first_row])
            pairs.append((above + offset).T.cpu().numpy())
    query, row = np.concatenate(pairs, axis=1)
    return query, row


def rank_exactly(
    queries: Vectors,
    query: npt.NDArray[np.integer[Any]],
    row: Rows,
    take: Callable[[Rows], Vectors],
    k: int,
) -> tuple[Vectors, Rows]:
    """Return the k best (Q, k) of pairs of a query and a row, by products in double precision.

    Args:
        queries: (Q, D).
        query: Number of each pair's query (n,).
        row: Its row (n,).
        take: Gives the vectors (m, D) of rows, which are distinct and ascending.
        k: Hits of a query.
    """
    order = np.argsort(row, kind="stable")
    query = query[order]
    row = row[order]
    similarity = np.empty(len(row), np.float32)
    for start in range(0, len(row), _RANKED_AT_ONCE):
        part = slice(start, start + _RANKED_AT_ONCE)
        distinct, place = np.unique(row[part], return_inverse=True)
        vectors = take(distinct).astype(np.float64)[place]
        similarity[part] = (vectors * queries[query[part]]).sum(axis=1)
    return ranked_hits(query, row, similarity, len(queries), k)


def ranked_hits(
    query: npt.NDArray[np.integer[Any]], row: Rows, similarity: Vectors, queries: int, k: int
) -> tuple[Vectors, Rows]:
    """Return pairs in any order as tables (Q, k) of similarities and rows, in the order that the
    module's text states.
    """
    order = np.lexsort((row, -similarity, query))
    query = query[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    kept = rank < k
    rows = np.full((queries, k), -1, np.int64)
    similarities = np.full((queries, k), -np.inf, np.float32)
    rows[query[kept], rank[kept]] = row[order][kept]
    similarities[query[kept], rank[kept]] = similarity[order][kept]
    return similarities, rows
