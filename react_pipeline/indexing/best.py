"""The best rows of many queries: found by matrix products of limited precision, ranked exactly.

Does not belong here: which rows are compared with which queries (`indexing.batch`). Shapes: Q
queries, N rows of a block, D width, K rows kept of a query.

A product in a fast type differs from the exact one by at most a margin, which follows from how far
rounding moved the query and the row (Cauchy-Schwarz). So more rows than hits are kept of each query
and ranked by products in double precision. If the worst of them is a margin below the last hit, no
row that was not kept can be a hit. The other queries, which are few, are compared once more with
all rows, in single precision and by that threshold.

Hits therefore do not depend on the type, the device or the blocks: similarity, rounded to float32,
descending; equal ones by row, ascending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from react_pipeline.embedding import Rows, Vectors

if TYPE_CHECKING:
    from torch import Tensor

_KEPT_ROWS = 64
"""Rows kept of a query beside twice the hits: most queries are then settled by one pass."""
_TILE_VALUES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Similarities computed at a time, by device: on a CPU they should stay in its cache."""
_RANKED_AT_ONCE = 2_048


def best_hits(
    queries: Vectors,
    k: int,
    blocks: Callable[[], Iterable[tuple[int, Tensor]]],
    take: Callable[[Rows], Vectors],
    precision: str = "fp32",
    device: str = "cpu",
) -> tuple[Vectors, Rows]:
    """The k rows most similar to each query, in the order that the module's text states.

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
        best = Best(queries, k, precision, device)
        for first_row, vectors in blocks():
            best.add(first_row, vectors)
        similarities, rows = rank_exactly(queries, *best.pairs(k), take, k)
        unsettled = best.unsettled(similarities[:, -1])
        if len(unsettled):
            few = queries[unsettled]
            least = similarities[unsettled, -1]
            pairs = _pairs_above(few, least, blocks(), device)
            similarities[unsettled], rows[unsettled] = rank_exactly(few, *pairs, take, k)
    return similarities, rows


class Best:
    """The best rows of each query among those added, by products in a fast type."""

    def __init__(self, queries: Vectors, k: int, precision: str, device: str) -> None:
        """Take unit queries (Q, D); the rest as of `best_hits`."""
        import torch

        from react_pipeline.clip import DTYPES

        exact = torch.from_numpy(queries).to(device)
        self._type = DTYPES[precision]
        self._queries = exact.to(self._type)
        shape = len(queries), 2 * k + _KEPT_ROWS
        self._similarities = torch.full(shape, -torch.inf, dtype=self._type, device=device)
        self._rows = torch.full(shape, -1, device=device)
        # How far rounding moved the queries and, so far, a row; and how long a vector is at most.
        self._query_shift = _shift(exact, self._queries)
        self._row_shift = 0.0
        self._longest = _longest(exact)

    def add(self, first_row: int, vectors: Tensor) -> None:
        """Compare rows from a number on, (N, D) float32, with all queries."""
        fast = vectors.to(self._type)
        self._longest = max(self._longest, _longest(vectors))
        self._row_shift = max(self._row_shift, _shift(vectors, fast))
        size = max(_TILE_VALUES[vectors.device.type] // len(vectors), 1)
        for start in range(0, len(self._queries), size):
            self._keep(slice(start, start + size), first_row, fast)

    def _keep(self, part: slice, first_row: int, fast: Tensor) -> None:
        import torch

        products = self._queries[part] @ fast.T
        width = self._rows.shape[1]
        highest = products.topk(min(width, len(fast)), dim=1, sorted=False)
        similarities = torch.cat([self._similarities[part], highest.values], dim=1)
        rows = torch.cat([self._rows[part], highest.indices + first_row], dim=1)
        best = similarities.topk(width, dim=1, sorted=False)
        self._similarities[part] = best.values
        self._rows[part] = rows.gather(1, best.indices)

    def pairs(self, k: int) -> tuple[Rows, Rows]:
        """The number of the query, and the row, of all kept ones that may be among the best `k`."""
        rows = self._rows.cpu().numpy()
        similarities = self._similarities.float()
        kth = similarities.topk(k, dim=1).values[:, -1:].cpu().numpy()
        values = similarities.cpu().numpy()
        is_possible = values + self._error(values) >= kth - self._error(kth)
        query, place = np.nonzero((rows >= 0) & is_possible)
        return query, rows[query, place]

    def _error(self, similarities: Vectors) -> Vectors:
        """How far from the exact ones products are at most."""
        import torch

        shift = self._query_shift + self._row_shift
        margin = (shift + _summing_error(self._queries.shape[1])) * self._longest
        # A product in a fast type is itself rounded.
        rounding = 0.0 if self._type == torch.float32 else torch.finfo(self._type).eps / 2
        error = margin + rounding * np.abs(np.maximum(similarities, -1e30))
        return error.astype(np.float32)

    def unsettled(self, kth: Vectors) -> Rows:
        """The queries of which a row that was not kept may be as similar as the k-th hit (Q,)."""
        least = self._similarities.amin(dim=1).float().cpu().numpy()
        # Where not all places are taken, every row was kept.
        full = np.flatnonzero(least > -np.inf)
        return full[least[full] + self._error(least[full]) >= kth[full]]


def _longest(vectors: Tensor) -> float:
    return float(vectors.norm(dim=1).max()) if len(vectors) else 1.0


def _shift(exact: Tensor, fast: Tensor) -> float:
    """How far rounding moved a row at most."""
    return _longest(exact - fast.float())


def _summing_error(width: int) -> float:
    """How much a sum of so many products in single precision differs at most, for unit vectors."""
    return (width + 8) * 2.0**-23


def _pairs_above(
    queries: Vectors, least: Vectors, blocks: Iterable[tuple[int, Tensor]], device: str
) -> tuple[Rows, Rows]:
    """Pairs of a query and a row that are at least so similar (Q,), by products in fp32."""
    import torch

    exact = torch.from_numpy(queries).to(device)
    floor = torch.from_numpy(least).to(device)
    # Twice: the rows may be a little longer than 1.
    floor = floor - 2 * _summing_error(queries.shape[1])
    pairs = [np.empty((2, 0), np.int64)]
    for first_row, vectors in blocks:
        size = max(_TILE_VALUES[vectors.device.type] // len(vectors), 1)
        for start in range(0, len(exact), size):
            part = slice(start, start + size)
            above = (exact[part] @ vectors.T >= floor[part, None]).nonzero()
            offset = above.new_tensor([start, first_row])
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
    """The k best (Q, k) of pairs of a query and a row, by products in double precision.

    Args:
        queries: (Q, D).
        query: Number of each pair's query (n,).
        row: Its row (n,).
        take: Gives the vectors (m, D) of rows, which are distinct and ascending.
        k: Hits of a query.
    """
    import torch

    order = np.argsort(row, kind="stable")
    query = query[order]
    row = row[order]
    all_queries = torch.from_numpy(queries)
    exact = np.empty(len(row), np.float32)
    for start in range(0, len(row), _RANKED_AT_ONCE):
        part = slice(start, start + _RANKED_AT_ONCE)
        distinct, place = np.unique(row[part], return_inverse=True)
        vectors = torch.from_numpy(take(distinct)).double()[torch.from_numpy(place)]
        of_pairs = all_queries[torch.from_numpy(query[part].astype(np.int64))]
        exact[part] = (vectors * of_pairs).sum(dim=1).float().numpy()
    return ranked_hits(query, row, exact, len(queries), k)


def ranked_hits(
    query: npt.NDArray[np.integer[Any]], row: Rows, similarity: Vectors, queries: int, k: int
) -> tuple[Vectors, Rows]:
    """Pairs in any order as tables (Q, k) of similarities and rows, in the order that the module's
    text states.
    """
    order = np.lexsort((row, -similarity, query))
    query = query[order]
    counts = np.bincount(query, minlength=queries)
    rank = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = rank < k
    rows = np.full((queries, k), -1, np.int64)
    similarities = np.full((queries, k), -np.inf, np.float32)
    rows[query[kept], rank[kept]] = row[order][kept]
    similarities[query[kept], rank[kept]] = similarity[order][kept]
    return similarities, rows
