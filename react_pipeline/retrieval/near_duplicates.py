"""Near duplicates: whether a row of the corpus shows nearly the same image as one that was taken
before it.

Does not belong here: in which order rows are asked about (`ranking`). Shapes: N rows asked about, K
taken, D width.

The rule: rows are asked about in the order in which they would be taken, and one is a near
duplicate if a row that was *taken* before it, by whichever class, has a cosine of `similarity` or
more with it. What is like a row that was not taken stays, and of two rows that are alike the one
that comes first stays.

So rows are compared with taken ones only, as matrix products: N K D multiplications, and K D
numbers in memory. Where rows are chosen again, because some were not available, known comparisons
still hold: of the rows that were looked at only those are read and compared again that were like a
row which is not taken any more.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 1_024
"""Rows looked at together, at most."""

CHUNK_ROWS = 8_192
"""Taken rows that a block is compared with at a time: 32 MiB of cosines."""

LAG_ROWS = 512
"""So many rows may be taken before a block is compared with them as a whole; with fewer each of its
rows is alone.
"""


@dataclass
class _Block:
    """Rows that were read together (N,), their vectors (N, D), and with how many places they were
    compared.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    compared: int = 0


class NearDuplicates:
    """Answers for one row after the other whether it is like one that was taken.

    A row gets a place when it is taken for the first time, and has it for good. Of every two rows
    with a place it is known whether they are alike; of a row that was refused, one place that it is
    like.
    """

    def __init__(
        self, read: Callable[[NDArray[np.int64]], NDArray[np.float32]], similarity: float
    ) -> None:
        """Compare the unit vectors (N, D) that `read` gives for row numbers (N,)."""
        self.looks = self.cosines = 0
        self._read, self._similarity = read, similarity
        self._vectors = np.empty((0, 0), np.float32)
        self._taken = np.zeros(0, bool)
        self._rows: list[int] = []
        self._place: dict[int, int] = {}
        self._like: dict[int, list[int]] = {}
        self._ahead: dict[int, tuple[_Block, int]] = {}

    def begin(self) -> None:
        """Start a new choice: nothing is taken yet."""
        self._taken[:] = False

    def knows(self, row: int) -> bool:
        """Whether `is_near` can answer without a further `look`."""
        return row in self._place or row in self._ahead or self._is_like_taken(row)

    def look(self, rows: Iterable[int]) -> None:
        """Read rows that will be asked about next, and compare them with those taken so far."""
        # Sorted, so that neighbouring pages of the vectors are read.
        new = np.array(sorted({row for row in rows if not self.knows(row)}), np.int64)
        if not len(new):
            return
        self.looks += 1
        block = _Block(new, self._read(new))
        for index, row in enumerate(new.tolist()):
            self._like.pop(row, None)  # what it was like is not taken any more
            self._ahead[row] = block, index
        self._catch_up(block)

    def is_near(self, row: int) -> bool:
        """Whether a row that `knows` is like a taken one."""
        if row in self._ahead and len(self._rows) - self._ahead[row][0].compared > LAG_ROWS:
            self._catch_up(self._ahead[row][0])
        if row in self._ahead and not self._is_like_taken(row):
            block, index = self._ahead[row]
            self._compare(block.rows[[index]], block.vectors[[index]], block.compared)
        return self._is_like_taken(row)

    def take(self, row: int) -> None:
        """Keep a row of which `is_near` has just said that it is like no other."""
        if row not in self._place:
            block, index = self._ahead.pop(row)
            self._place[row] = self._append(row, block.vectors[index])
            for place in self._like.get(row, ()):
                self._like.setdefault(self._rows[place], []).append(self._place[row])
        self._taken[self._place[row]] = True

    def _is_like_taken(self, row: int) -> bool:
        return any(self._taken[place] for place in self._like.get(row, ()))

    def _catch_up(self, block: _Block) -> None:
        """Compare what is still to be asked about in a block with the places that came since."""
        waiting = np.array(
            [index for index, row in enumerate(block.rows.tolist()) if row in self._ahead], np.intp
        )
        self._compare(block.rows[waiting], block.vectors[waiting], block.compared)
        block.compared = len(self._rows)

    def _compare(self, rows: NDArray[np.int64], vectors: NDArray[np.float32], start: int) -> None:
        """Note what rows (N,) are like from a place on: one taken row, or else all that were taken
        in earlier choices.

        The latter may be taken again before a row is asked about. With a taken one a row is settled
        and waits no more.
        """
        for first in range(start, len(self._rows), CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, len(self._rows))
            alike = vectors @ self._vectors[first:last].T >= self._similarity
            self.cosines += alike.size
            if not alike.any():
                continue
            by_taken = alike & self._taken[first:last]
            near = by_taken.any(axis=1)
            if near.any():
                for row, place in zip(
                    rows[near].tolist(), by_taken[near].argmax(axis=1).tolist(), strict=True
                ):
                    self._like[row] = [first + place]
                    del self._ahead[row]
                rows, vectors, alike = rows[~near], vectors[~near], alike[~near]
            for index, place in np.argwhere(alike).tolist():
                self._like.setdefault(int(rows[index]), []).append(first + place)

    def _append(self, row: int, vector: NDArray[np.float32]) -> int:
        place = len(self._rows)
        if place == len(self._vectors):
            grown = np.empty((max(2 * place, LAG_ROWS), len(vector)), np.float32)
            grown[:place] = self._vectors[:, : len(vector)] if place else 0
            self._vectors, self._taken = (
                grown,
                np.append(self._taken, np.zeros(len(grown) - place, bool)),
            )
        self._rows.append(row)
        self._vectors[place] = vector
        return place
