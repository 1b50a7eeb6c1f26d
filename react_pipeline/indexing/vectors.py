"""The vectors that an index is made of, read a chunk or a few rows at a time.

Does not belong here: which files there are (`embedding`). Shapes: N rows, D width.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from react_pipeline.embedding import (
    Rows,
    Side,
    Vectors,
    bad_rows,
    row_metadata,
    vector_parts,
    vectors_of,
)
from react_pipeline.store import Artifact, InputError

SIDES: tuple[Side, ...] = ("image", "text")
CHUNK_ROWS = 32_768


class StoredVectors:
    """One side of the embeddings; a file is mapped while its rows are read, so memory holds only
    those pages.
    """

    def __init__(self, embeddings: Artifact, side: Side) -> None:
        """Open no file yet."""
        self.artifact = embeddings
        self.side = side
        self._parts = vector_parts(embeddings, side)
        self._starts = self._parts.starts
        self.rows = int(self._starts[-1])
        self.dimension = int(embeddings.counts["dimension"])

    def chunks(self) -> Iterator[tuple[int, Vectors]]:
        """Yield all rows like `blocks`, in single precision."""
        for first, block in self.blocks(0, self.rows):
            yield first, block.astype(np.float32)

    def blocks(
        self, first_row: int, last_row: int, size: int = CHUNK_ROWS
    ) -> Iterator[tuple[int, npt.NDArray[np.floating[Any]]]]:
        """The rows from one up to another as they are stored: the first row of each block, and its
        mapped vectors.
        """
        for number in range(self._number(first_row), len(self._parts.names)):
            start = int(self._starts[number])
            if start >= last_row:
                return
            file = self._parts.mapped(number)[: last_row - start]
            for inside in range(max(first_row - start, 0), len(file), size):
                yield start + inside, file[inside : inside + size]

    def take(self, rows: Rows) -> Vectors:
        """The vectors (len(rows), D) of some rows, in their order."""
        return vectors_of(self.artifact, self.side, rows)

    def sample(self, size: int, seed: int) -> tuple[Rows, Vectors]:
        """Random rows without repetition, sorted, and their vectors."""
        random = np.random.default_rng(seed)
        chosen = random.choice(self.rows, size=min(size, self.rows), replace=False)
        rows = np.sort(chosen).astype(np.int64)
        return rows, self.take(rows)

    def refuse_bad(self, rows: Rows, vectors: Vectors) -> None:
        """Refuse vectors that are not finite or not of unit length: FAISS would silently never find
        them.

        Raises:
            InputError: Naming the file, the row in it and its key.
        """
        bad = bad_rows(vectors)
        if len(bad):
            row = int(rows[bad[0]])
            number = self._number(row)
            length = np.linalg.norm(vectors[bad[0]])
            raise InputError(
                f"{self._parts.path(number)}: row {row - self._starts[number]}{self._name(row)} "
                f"has length {length}, not 1, so a search could never rank it; "
                "rematerialize `corpus_embeddings`"
            )

    def _number(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _name(self, row: int) -> str:
        described = row_metadata(self.artifact, [row], ["image_path", "url"]).iloc[0]
        for column, called in (("image_path", "key"), ("url", "url")):
            if isinstance(described[column], str):
                return f" ({called} {described[column]!r})"
        return ""
