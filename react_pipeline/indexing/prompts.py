"""The best rows of prompts that are names x templates, without comparing each prompt with each row.

Does not belong here: comparing any queries, thresholds, ranking (`indexing.best`). Shapes: M names,
T templates, Q = M x T prompts, N rows, D width.

A prompt is the mean of its name's prompts, plus what its template adds to every name, plus a rest:
on text vectors of ImageNet's names and templates the rest is about 0.17 long, of 1. So M + T
products give all similarities but for the rest, which adds at most its own length times the
distance of the row from a centre (Cauchy-Schwarz). Of a million rows about one in a hundred is left
for a prompt, and nothing that is left out could be a hit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from react_pipeline.embedding import Rows, Vectors
from react_pipeline.indexing.best import Best

if TYPE_CHECKING:
    from torch import Tensor

_MIN_TEMPLATES = 8
"""Below that the products with the means of names are too large a part of all."""
_ROWS_PER_HIT = {"fp32": 1_000, "bf16": 50_000}
"""Where hits are less rare the bound leaves too much, by the type in which all could be compared
instead.
"""
_WORTH = 0.2
"""Share of the similarities that may be left; above it all of a block are computed, and of some
blocks more.
"""
_BLOCKS_MORE = 8
_TILE_NAMES, _TILE_ROWS, _CELL_VALUES = 64, 2_048, 1 << 17
"""Bounds computed at a time: they should stay in a core's cache."""
_LEFT_AT_ONCE = 4_096
_NAMES_AT_ONCE = 32


def is_worth(queries: int, templates: int, rows: int, k: int, precision: str, device: str) -> bool:
    """Whether `PromptBest` is faster than `Best` with products of that precision."""
    of_names = templates >= _MIN_TEMPLATES and queries % templates == 0
    return device == "cpu" and of_names and rows >= _ROWS_PER_HIT[precision] * k


class PromptBest(Best):
    """As `Best`, on a CPU, in single precision."""

    def __init__(self, prompts: Vectors, k: int, templates: int) -> None:
        """Take unit prompts (Q, D), name by name, each name with the same templates in the same
        order.
        """
        import torch

        super().__init__(prompts, k)
        by_name = self._exact.view(-1, templates, prompts.shape[1])
        self._means = by_name.mean(dim=1)
        self._offsets = by_name.mean(dim=0) - self._means.mean(dim=0)
        rests = [
            of_name - mean - self._offsets
            for of_name, mean in zip(by_name, self._means, strict=True)
        ]
        self._rests = torch.stack([rest.norm(dim=1) for rest in rests])
        self._centre: tuple[Tensor, Tensor] | None = None
        self._skipped = 0

    def raise_thresholds(
        self,
        blocks: Iterable[tuple[int, npt.NDArray[np.floating[Any]]]],
        take: Callable[[Rows], Vectors],
    ) -> None:
        """Begin with what the rows nearest to each name's mean reach; `blocks` and `take` are of
        `StoredVectors`.
        """
        import torch

        nearest = Best(self._means.numpy(), 2 * self._k + 64)
        for first, block in blocks:
            nearest.see(np.arange(first, first + len(block)), torch.from_numpy(np.array(block)))
        _, rows = nearest.ranked()
        if (rows < 0).any():
            return
        prompts, kth = self._exact.view(*self._rests.shape, -1), self._kth.view(self._rests.shape)
        for start in range(0, len(prompts), _NAMES_AT_ONCE):
            some = slice(start, start + _NAMES_AT_ONCE)
            vectors = torch.from_numpy(take(rows[some].ravel())).view(*rows[some].shape, -1)
            kth[some] = (prompts[some] @ vectors.mT).topk(self._k, dim=2).values[:, :, -1]
        self._set_floor()

    def see(self, rows: Rows, vectors: Tensor, queries: Tensor | None = None) -> Tensor:
        """As `Best.see`; the bound is for all prompts."""
        import torch

        self._skipped -= 1
        if queries is not None or self._skipped >= 0 or bool((self._floor == -torch.inf).any()):
            return super().see(rows, vectors, queries)
        given, _, lengths = self._taken(vectors)
        if self._centre is None:
            middle = given.mean(dim=0)
            self._centre = middle, self._exact @ middle
        # The bound is a sum of products that are rounded like those it is compared with.
        wanted = self._floor - 4 * self._summing * self._longest - self._centre[1]
        for start in range(0, len(rows), _TILE_ROWS):
            tile = slice(start, start + _TILE_ROWS)
            differences = given[tile] - self._centre[0]
            compared = self._compare_left(
                rows[tile], given[tile], differences, wanted.view(self._rests.shape)
            )
            if compared > _WORTH * len(rows[tile]) * len(self._kth):
                self._skipped = _BLOCKS_MORE
        self._merge_if_many()
        return lengths

    def _compare_left(
        self, rows: Rows, vectors: Tensor, differences: Tensor, wanted: Tensor
    ) -> int:
        """Compare prompts with those rows (N, D) whose bound reaches what is left; returns how many
        were compared.

        Args:
            differences: The rows without the centre (N, D).
            wanted: The least similarity (M, T) with such a difference.
        """
        import torch

        distances, rests = differences.norm(dim=1), self._rests
        # A row's own distance counts for the shortest rest of the name, and the largest distance
        # for what is longer.
        least = rests.amin(dim=1, keepdim=True)
        wanted = wanted - (rests - least) * distances.max()
        of_names = torch.addmm(least * distances, self._means, differences.T)
        of_templates = self._offsets @ differences.T
        reached = torch.empty(of_names.shape, dtype=torch.bool)
        for start in range(0, len(rests), _TILE_NAMES):
            some = slice(start, start + _TILE_NAMES)
            lowest = torch.full_like(of_names[some], torch.inf)
            missing = torch.empty_like(lowest)
            for of_prompts, of_template in zip(
                wanted[some].T[:, :, None], of_templates, strict=True
            ):
                torch.sub(of_prompts, of_template, out=missing)
                torch.minimum(lowest, missing, out=lowest)
            torch.ge(of_names[some], lowest, out=reached[some])
        of_rows, compared = of_templates.T.contiguous(), 0
        for name, row in zip(
            *(part.split(_LEFT_AT_ONCE) for part in reached.nonzero().unbind(dim=1)), strict=True
        ):
            bounds = of_rows[row].add_(of_names[name, row][:, None])
            place, template = _reaching(bounds, wanted[name])
            query = name.numpy()[place] * rests.shape[1] + template
            self._compare_pairs(query, row.numpy()[place], rows, vectors)
            compared += len(query)
        return compared

    def see_cell(
        self, rows: Rows, vectors: Tensor, queries: Tensor, centre: Tensor, nearness: Tensor
    ) -> None:
        """As `Best.see`, of prompts that visit a cell: few of each name, so each has a bound of its
        own.

        Args:
            rows: Their numbers (N,).
            vectors: The rows themselves (N, D).
            queries: Numbers (V,) of prompts, ascending.
            centre: Of the cell (D,).
            nearness: Its product with each of these prompts (V,).
        """
        import torch

        given, fast, _ = self._taken(vectors)
        floor, templates = self._floor[queries], self._rests.shape[1]
        self._skipped -= 1
        if self._skipped >= 0 or bool((floor == -torch.inf).any()):
            self._compare(rows, fast, queries)
            return
        differences = given - centre
        distances, rests = differences.norm(dim=1), self._rests.view(-1)[queries]
        wanted = floor - 4 * self._summing * self._longest - nearness
        names, place = torch.unique_consecutive(queries // templates, return_inverse=True)
        of_names, of_templates = self._means[names] @ differences.T, self._offsets @ differences.T
        compared = 0
        for part in torch.arange(len(queries)).split(max(_CELL_VALUES // len(rows), 1)):
            bounds = of_names.index_select(0, place[part])
            bounds += of_templates.index_select(0, queries[part] % templates)
            query, column = _reaching(bounds.addr_(rests[part], distances), wanted[part, None])
            self._compare_pairs(queries[part].numpy()[query], column, rows, given)
            compared += len(query)
        if compared > _WORTH * len(rows) * len(queries):
            self._skipped = _BLOCKS_MORE
        self._merge_if_many()

    def _compare_pairs(self, query: Rows, column: Rows, rows: Rows, vectors: Tensor) -> None:
        """Offer those of some pairs, of a prompt and a row of a block (N, D), that reach the
        threshold.
        """
        import faiss

        similarities = np.empty(len(query), np.float32)
        arrays = self._exact.numpy(), query, vectors.numpy(), column, similarities
        faiss.pairwise_indexed_inner_product(
            vectors.shape[1], len(query), *map(faiss.swig_ptr, arrays)
        )
        found = np.flatnonzero(similarities >= self._floor.numpy()[query])
        self._offer(query[found], rows[column[found]], similarities[found])


def _reaching(bounds: Tensor, wanted: Tensor) -> tuple[Rows, Rows]:
    """Row and column of what is not below; numpy finds them three times as fast as torch."""
    row, column = np.divmod(np.flatnonzero(bounds.numpy() >= wanted.numpy()), bounds.shape[1])
    return row, column
