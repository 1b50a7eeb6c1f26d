"""Near duplicates: whether a row of the corpus shows nearly the same image as one that was taken
before it.

Does not belong here: in which order rows are asked about (`ranking`). Shapes: N rows asked about, K
taken, D width.

The rule: rows are asked about in the order in which they would be taken, and one is a near
duplicate if a row that was *taken* before it, by whichever class, has a cosine of `similarity` or
more with it. What is like a row that was not taken stays, and of two rows that are alike the one
that comes first stays.

So rows are compared with taken ones only, and K D numbers are in memory. Few taken rows are
compared as matrix products of whole blocks: N K D multiplications. Many are searched by range in an
eighth of the dimensions, which misses none, and what that finds is compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from react_pipeline.retrieval import ReadVectors

SAMPLED_ROWS = 1_024
"""Taken rows by which it is decided whether a search saves anything."""

CHUNK_ROWS = 8_192
"""Taken rows that a block is compared with at a time: 32 MiB of cosines."""

LAG_ROWS = 512
"""Rows that may be taken before a block is compared with them as a whole; until then each of its
rows is compared alone.
"""

SEARCHED_ROWS = 4_096
"""From so many taken rows on, a block is compared with them by a search."""

TILE_ROWS = 1_024
"""Rows that are compared at a time, so that the cosines stay in the cache: 1.9 ns a pair of a core,
and 5.4 by FAISS' search by range."""

REDUCTION = 8
"""How many times fewer dimensions are searched."""

MAX_HITS = 0.01
"""Share of the pairs of rows that a search may hit. It is not used where it hits more, since it
would save nothing.
"""

MARGIN = 1e-3
"""More than rounding can move a product of unit vectors in single precision."""


class _Reduced:
    """Taken rows in fewer dimensions.

    In an orthonormal basis whose first directions hold most of the vectors, a = (p, q) and b =
    (r, t). By Cauchy-Schwarz their product is p r + q t <= p r + |q| |t|, which is the product of
    (p, |q|) and (r, |t|).
    """

    def __init__(self, taken: NDArray[np.float32]) -> None:
        """Find the basis of some vectors (K, D); none of them is added."""
        _, directions = np.linalg.eigh(np.cov(taken.T, bias=True) + np.outer(*2 * [taken.mean(0)]))
        width = -(-taken.shape[1] // REDUCTION)
        self._basis = np.ascontiguousarray(directions[:, -width:], np.float32)
        self._tiles: list[NDArray[np.float32]] = []
        self.rows = 0

    def add(self, taken: NDArray[np.float32]) -> None:
        """Add further vectors (n, D)."""
        added = self._of(taken)
        self.rows += len(added)
        if self._tiles and len(self._tiles[-1]) < TILE_ROWS:
            added = np.vstack([self._tiles.pop(), added])
        self._tiles += np.split(added, range(TILE_ROWS, len(added), TILE_ROWS))

    def near(
        self, vectors: NDArray[np.float32], similarity: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of a vector and of a row of each pair that may be so similar."""
        reduced = self._of(vectors)
        pairs = [np.empty((2, 0), np.int64)]
        for number, tile in enumerate(self._tiles):
            alike = reduced @ tile.T >= similarity - MARGIN
            if alike.any():
                vector, row = alike.nonzero()
                pairs.append(np.stack([vector, row + number * TILE_ROWS]))
        numbers, rows = np.concatenate(pairs, axis=1)
        return numbers, rows

    def _of(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        inside = vectors @ self._basis
        outside = np.linalg.norm(vectors - inside @ self._basis.T, axis=1, keepdims=True)
        return np.hstack([inside, outside])


@dataclass
class _Block:
    """Rows that were read together: their vectors (N, D), which of them are like a taken row (N,),
    and with how many taken rows that was tried.
    """

    vectors: NDArray[np.float32]
    is_near: NDArray[np.bool_]
    compared: int = 0


class NearDuplicates:
    """Answers for one row after the other whether it is like one that was taken."""

    def __init__(self, read: ReadVectors, similarity: float) -> None:
        """Compare the unit vectors (N, D) that `read` gives for row numbers (N,)."""
        self._read = read
        self._similarity = similarity
        self.begin()

    def begin(self) -> None:
        """Start a new choice: nothing is taken yet."""
        self.looks = self.cosines = 0
        self._taken = np.empty((0, 0), np.float32)
        self._count = 0
        self._places: dict[int, tuple[_Block, int]] = {}
        self._reduced: _Reduced | None = None
        self._searches = True

    def knows(self, row: int) -> bool:
        """Whether `is_near` can answer without a further `look`."""
        return row in self._places

    def look(self, rows: Iterable[int]) -> None:
        """Read rows that will be asked about next, and compare them with those taken so far."""
        # Sorted, so that neighbouring pages of the vectors are read.
        new = np.array(sorted({row for row in rows if not self.knows(row)}), np.int64)
        self.looks += 1
        block = _Block(self._read(new), np.zeros(len(new), bool))
        if not self._count:
            self._taken = np.empty((LAG_ROWS, block.vectors.shape[1]), np.float32)
        self._compare(block)
        self._places.update({row: (block, place) for place, row in enumerate(new.tolist())})

    def is_near(self, row: int) -> bool:
        """Whether a row that `knows` is like a taken one."""
        block, place = self._places[row]
        if self._count - block.compared > LAG_ROWS:
            self._compare(block)
        if block.is_near[place]:
            return True
        latest = self._taken[block.compared : self._count]
        self.cosines += len(latest)
        return bool((latest @ block.vectors[place] >= self._similarity).any())

    def take(self, row: int) -> None:
        """Keep a row of which `is_near` has just said that it is like no other."""
        block, place = self._places[row]
        if self._count == len(self._taken):
            self._taken = np.concatenate([self._taken, np.empty_like(self._taken)])
        self._taken[self._count] = block.vectors[place]
        self._count += 1

    def _compare(self, block: _Block) -> None:
        """Compare a block's rows, unless they are near already, with the rows taken since."""
        if self._searches and self._count - block.compared >= SEARCHED_ROWS:
            self._search(block)
        for start in range(block.compared, self._count, CHUNK_ROWS):
            others = np.flatnonzero(~block.is_near)
            taken = self._taken[start : min(start + CHUNK_ROWS, self._count)]
            alike = block.vectors[others] @ taken.T >= self._similarity
            self.cosines += alike.size
            block.is_near[others] = alike.any(axis=1)
        block.compared = self._count

    def _search(self, block: _Block) -> None:
        """As `_compare`, by range; nothing where that would find too much."""
        if self._reduced is None:
            self._reduced = _Reduced(self._taken[: self._count])
            sample = self._taken[: min(self._count, SAMPLED_ROWS)]
            self._reduced.add(sample)
            hits, _ = self._reduced.near(sample, self._similarity)
            self._searches = len(hits) - len(sample) <= MAX_HITS * len(sample) ** 2
            if not self._searches:
                return
        self._reduced.add(self._taken[self._reduced.rows : self._count])
        others = np.flatnonzero(~block.is_near)
        hits, rows = self._reduced.near(block.vectors[others], self._similarity)
        self.cosines += len(rows)
        for start in range(0, len(rows), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            places = others[hits[part]]
            exact = np.einsum(
                "nd,nd->n", block.vectors[places], self._taken[rows[part]], dtype=np.float64
            )
            block.is_near[places[exact.astype(np.float32) >= self._similarity]] = True
        block.compared = self._count
