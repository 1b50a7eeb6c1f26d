"""Parts of the embeddings: files that follow one another, of which the corpus has tens of
thousands.

A file is opened only if one of its rows is asked for, and is closed before the next one: no process
may hold so many open, and opening all takes seconds. Which files there are says `vectors`. Shapes:
N rows, D width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
UNIT_TOLERANCE = 0.01
"""Vectors are stored in half precision."""


@dataclass(frozen=True)
class Parts:
    """Files of one kind that follow one another.

    Attributes:
        names: Below the folder, in the order of rows.
        starts: The first row of each file, and the number of all rows.
    """

    folder: Path
    names: Sequence[str]
    starts: Rows

    def path(self, number: int) -> Path:
        """Return a file, by its number."""
        return self.folder / self.names[number]

    def holding(self, rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
        """Yield the files that hold one of `rows`, in their order: number, positions in `rows`,
        rows counted in the file.

        Raises:
            IndexError: If there is no such row.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= self.starts[-1]):
            raise IndexError(
                f"{self.folder}: rows {rows.min()} to {rows.max()} of a corpus of "
                f"{self.starts[-1]:,}"
            )
        return holding(self.starts, rows)

    def mapped(self, number: int) -> npt.NDArray[Any]:
        """Map a file of vectors (rows, D); only the pages that are used will be read."""
        return np.asarray(np.load(self.path(number), mmap_mode="r", allow_pickle=False))


def bad_rows(vectors: Vectors) -> Rows:
    """Return the rows of (N, D) that are not finite or not of unit length."""
    lengths = np.linalg.norm(vectors, axis=1)
    # A NaN compares as false, so it counts as bad.
    return np.flatnonzero(~(np.abs(lengths - 1) < UNIT_TOLERANCE))


def part_starts(lengths: Sequence[int]) -> Rows:
    """Return the first row of each of several runs of rows, and the number of all rows."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def holding(starts: Rows, rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
    """Yield like `Parts.holding`, for any runs that begin at `starts` and contain `rows`."""
    if not len(rows):
        return
    order = np.argsort(rows, kind="stable")
    numbers = np.searchsorted(starts, rows[order], side="right") - 1
    distinct, begins = np.unique(numbers, return_index=True)
    for number, places in zip(distinct.tolist(), np.split(order, begins[1:]), strict=True):
        yield number, places, rows[places] - starts[number]
