"""Near duplicates: which rows of the corpus show nearly the same image, by their vectors.

Belongs here: exact comparison of the rows that matter, in blocks, so that memory is bounded whatever their number.
Does not belong here: which of two such rows is kept (`ranking`). N rows cost N^2 D / 2 multiplications, which is why
only rows that would be kept are looked at (`retrieve`). Shapes: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.artifacts import Artifact
from react_pipeline.vectors import image_vectors

BLOCK_ROWS = 4_096
"""Rows on each side of a block of cosines: 64 MiB."""


class NearDuplicates:
    """Pairs of rows whose images are alike, found among the rows that were given so far.

    Attributes:
        neighbours: For a row those with a cosine of `similarity` or more, itself left out.
    """

    def __init__(self, embeddings: Artifact, similarity: float) -> None:
        """Compare vectors of `corpus_embeddings`; a `similarity` above 1 finds nothing and costs nothing."""
        self.neighbours: dict[int, list[int]] = {}
        self._embeddings = embeddings
        self._similarity = similarity
        self._examined: list[NDArray[np.int64]] = []

    def examine(self, rows: NDArray[np.int64]) -> None:
        """Compare rows that were not given before with each other and with all that were.

        Args:
            rows: Row numbers (N,), each once.
        """
        if self._similarity > 1:
            return
        for block in _blocks(rows):
            vectors = self._vectors(block)
            for other in self._examined:
                self._compare(block, vectors, other, self._vectors(other))
            self._compare(block, vectors, block, vectors)
            self._examined.append(block)

    def _compare(
        self,
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32],
        others: NDArray[np.int64],
        their_vectors: NDArray[np.float32],
    ) -> None:
        for left, right in np.argwhere(vectors @ their_vectors.T >= self._similarity):
            row, other = int(rows[left]), int(others[right])
            # Within a block each pair shows up from both sides.
            if row < other or rows is not others:
                self.neighbours.setdefault(row, []).append(other)
                self.neighbours.setdefault(other, []).append(row)

    def _vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return image_vectors(self._embeddings, pd.Series(rows))


def _blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    # Sorted, so that a block reads neighbouring pages of the vectors.
    ordered = np.sort(rows)
    for start in range(0, len(ordered), BLOCK_ROWS):
        yield ordered[start : start + BLOCK_ROWS]
