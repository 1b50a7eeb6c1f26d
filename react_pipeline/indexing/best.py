"""The best rows of many queries, found by matrix products of limited precision and ranked exactly
at the end.

Does not belong here: which rows are compared with which queries (`indexing.batch`). Shapes: Q
queries, N rows of a block, D width.

A product in a fast type differs from the exact one by at most a margin, which follows from how far
rounding moved the query and the row (Cauchy-Schwarz). So a row can be dropped once k rows of its
query are better by two margins; the few that are left are ranked by products in double precision.
Hits therefore do not depend on the type, the device or the blocks: similarity, rounded to float32,
descending; equal ones by row, ascending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from react_pipeline.embedding import Rows, Vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

GROUP_ROWS = 128
"""Rows whose highest similarity is compared with the threshold before any of them is looked at."""
TILE_VALUES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Similarities computed at a time, by device: on a CPU they should stay in its cache."""
TILE_ROWS = 1_024
_MERGE_PAIRS = 1 << 15
_RANKED_AT_ONCE = 2_048


class Best:
    """The k best rows of each query among those seen."""

    def __init__(
        self, queries: Vectors, k: int, precision: str = "fp32", device: str = "cpu"
    ) -> None:
        """Take unit queries (Q, D).

        Args:
            queries: Of finite numbers.
            k: Hits of a query.
            precision: Of the products: `fp32`, `bf16` or `fp16`.
            device: Where they are computed.
        """
        import torch

        from react_pipeline.clip import DTYPES

        self._exact, self._k, self._device = torch.from_numpy(queries), k, device
        self._type = DTYPES[precision]
        self._queries = self._exact.to(device, self._type)
        # Of sums in single precision, and of a result that is stored in the fast type.
        self._rounding = 0.0 if precision == "fp32" else torch.finfo(self._type).eps / 2
        self._summing = (queries.shape[1] + 8) * 2.0**-23
        self._lengths = self._exact.norm(dim=1)
        self._moved = (self._exact - self._queries.float().cpu()).norm(dim=1)
        self._longest, self._row_moved = 1.0, 0.0
        self._kth = torch.full((len(queries),), -torch.inf)
        self._floor = self._kth.to(device)
        self._query, self._row = np.empty(0, np.int32), np.empty(0, np.int64)
        self._similarity = np.empty(0, np.float32)
        self._new: list[tuple[npt.NDArray[np.int32], Rows, Vectors]] = []
        self._waiting = 0

    def see(self, rows: Rows, vectors: Tensor, queries: Tensor | None = None) -> Tensor:
        """Compare rows of the corpus with the queries.

        Args:
            rows: Their numbers (N,).
            vectors: The rows themselves (N, D), float16 or float32; finite.
            queries: Numbers of the queries that are compared with them, each once; None: all.

        Returns:
            The lengths of the rows (N,).
        """
        _, fast, lengths = self._taken(vectors)
        self._compare(rows, fast, queries)
        return lengths

    def _taken(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows in single precision and in the fast type, and their lengths."""
        import torch

        given = vectors.to(self._device, torch.float32)
        fast = given.to(self._type)
        lengths = given.norm(dim=1)
        longest = float(lengths.max())
        moved = (
            0.0 if self._type == torch.float32 else float((given - fast.float()).norm(dim=1).max())
        )
        if longest > self._longest or moved > self._row_moved:
            self._longest, self._row_moved = (
                max(longest, self._longest),
                max(moved, self._row_moved),
            )
            self._set_floor()
        return given, fast, lengths

    def _compare(self, rows: Rows, fast: Tensor, queries: Tensor | None) -> None:
        import torch

        count = len(self._queries) if queries is None else len(queries)
        # A first tile of rows wide enough to hold k gives each query its threshold.
        start, wide = 0, min(len(rows), max(4 * TILE_ROWS, 4 * self._k))
        while start < len(rows):
            some = rows[start : start + wide]
            # Whole groups; what is added is of similarity 0.
            tile = torch.nn.functional.pad(
                fast[start : start + wide], (0, 0, 0, -len(some) % GROUP_ROWS)
            )
            height = max(TILE_VALUES[self._device.split(":")[0]] // wide, 1)
            for first in range(0, count, height):
                last = min(first + height, count)
                chosen = slice(first, last) if queries is None else queries[first:last]
                self._select(chosen, first, some, self._queries[chosen] @ tile.T)
            start += wide
            wide = TILE_ROWS
            self._merge_if_many()

    def _select(self, chosen: slice | Tensor, first: int, rows: Rows, similarities: Tensor) -> None:
        """Keep what reaches the threshold of its query."""
        import torch

        floor = self._floor[chosen]
        unset = floor == -torch.inf
        if len(rows) >= self._k and bool(unset.any()):
            # Of the first k rows seen together; the merge finds a better one.
            numbers = (
                torch.arange(first, first + len(floor)) if isinstance(chosen, slice) else chosen
            )
            kth = (
                similarities[unset, : len(rows)]
                .topk(self._k, dim=1, sorted=True)
                .values[:, -1]
                .float()
                .cpu()
            )
            self._kth[numbers[unset.cpu()]] = kth
            self._set_floor(numbers[unset.cpu()])
            floor = self._floor[chosen]
        groups = similarities.view(len(floor), -1, GROUP_ROWS)
        if similarities.element_size() == 2 and bool((floor > 0).all()):
            # Positive halves are ordered like the integers of their bits, which a CPU compares five
            # times faster.
            highest = groups.view(torch.int16).amax(dim=2).view(self._type)
        else:
            highest = groups.amax(dim=2)
        place = (highest >= floor[:, None]).nonzero()
        if not len(place):
            return
        found = groups[place[:, 0], place[:, 1]]
        group, column = (found >= floor[place[:, 0], None]).nonzero().unbind(dim=1)
        real = place[group, 1] * GROUP_ROWS + column < len(rows)
        group, column = group[real], column[real]
        place = place[group]
        query = (
            (place[:, 0] + first).cpu().numpy()
            if isinstance(chosen, slice)
            else chosen[place[:, 0].cpu()].numpy()
        )
        row = rows[(place[:, 1] * GROUP_ROWS + column).cpu().numpy()]
        self._offer(query, row, found[group, column].float().cpu().numpy())

    def _offer(self, query: npt.NDArray[np.integer[Any]], row: Rows, similarity: Vectors) -> None:
        self._new.append((query.astype(np.int32), row, similarity))
        self._waiting += len(row)

    def _merge_if_many(self) -> None:
        if self._waiting > max(_MERGE_PAIRS, len(self._kth) * self._k):
            self._merge()

    def _set_floor(self, numbers: Tensor | slice = slice(None)) -> None:
        """Thresholds of some queries: two margins below their k-th similarity."""
        kth = self._kth[numbers]
        margin = self._moved[numbers] * self._longest + self._lengths[numbers] * self._row_moved
        margin += self._summing * self._longest + self._rounding * kth.abs().nan_to_num(posinf=0)
        self._floor[numbers] = (kth - 2 * margin).to(self._device)

    def _merge(self) -> None:
        """Sort what came since, raise the thresholds, and forget what is below them."""
        import torch

        parts = [(self._query, self._row, self._similarity), *self._new]
        self._new, self._waiting = [], 0
        query, row, similarity = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        # One integer a pair sorts by query, and the highest similarity first.
        bits = similarity.view(np.int32).astype(np.int64)
        order = np.argsort(
            (query.astype(np.int64) << 32) - np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
        )
        counts = np.bincount(query, minlength=len(self._kth))
        place = np.cumsum(counts) - counts + self._k - 1
        full = np.flatnonzero(counts >= self._k)
        best, numbers = torch.from_numpy(similarity[order[place[full]]]), torch.from_numpy(full)
        self._kth[numbers] = torch.maximum(best, self._kth[numbers])
        self._set_floor()
        kept = order[similarity[order] >= self._floor.cpu().numpy()[query[order]]]
        self._query, self._row, self._similarity = query[kept], row[kept], similarity[kept]

    def ranked(self, take: Callable[[Rows], Vectors] | None = None) -> tuple[Vectors, Rows]:
        """The hits (Q, k); similarity minus infinity and row -1 where there are fewer.

        Args:
            take: As of `rank_exactly`; None: the similarities that were computed are those that
                count.
        """
        self._merge()
        if take is None:
            return ranked_hits(self._query, self._row, self._similarity, len(self._kth), self._k)
        return rank_exactly(self._exact.numpy(), self._query, self._row, take, self._k)


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
    query, row, all_queries = query[order], row[order], torch.from_numpy(queries)
    exact = np.empty(len(row), np.float32)
    for start in range(0, len(row), _RANKED_AT_ONCE):
        part = slice(start, start + _RANKED_AT_ONCE)
        wanted, place = np.unique(row[part], return_inverse=True)
        vectors = torch.from_numpy(take(wanted)).double()[torch.from_numpy(place)]
        asked = all_queries[torch.from_numpy(query[part].astype(np.int64))]
        exact[part] = (vectors * asked).sum(dim=1).float().numpy()
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
