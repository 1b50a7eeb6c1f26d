"""Near duplicates: whether a row of the corpus shows nearly the same image as one that was taken
before it.

Does not belong here: in which order rows are asked about (`ranking`). Shapes: N rows asked about, K
taken, D width.

The rule: rows are asked about in the order in which they would be taken, and one is a near
duplicate if a row that was *taken* before it, by whichever class, has a cosine of `similarity` or
more with it. What is like a row that was not taken stays, and of two rows that are alike the one
that comes first stays.

So rows are compared with taken ones only, as matrix products of whole blocks: N K D
multiplications, with K D numbers in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from react_pipeline.retrieval import ReadVectors

CHUNK_ROWS = 8_192
"""Taken rows that a block is compared with at a time: 32 MiB of cosines."""

LAG_ROWS = 512
"""Rows that may be taken before a block is compared with them as a whole; until then each of its
rows is compared alone.
"""


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
        for start in range(block.compared, self._count, CHUNK_ROWS):
            others = np.flatnonzero(~block.is_near)
            taken = self._taken[start : min(start + CHUNK_ROWS, self._count)]
            alike = block.vectors[others] @ taken.T >= self._similarity
            self.cosines += alike.size
            block.is_near[others] = alike.any(axis=1)
        block.compared = self._count
