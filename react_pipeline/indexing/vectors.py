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
        """Yield all rows as `blocks` does, in single precision."""
        for first, block in self.blocks():
            yield first, block.astype(np.float32)

    def blocks(self, size: int = CHUNK_ROWS) -> Iterator[tuple[int, npt.NDArray[np.floating[Any]]]]:
        """Yield all rows as they are stored: the first row of each block, and its mapped
        vectors.
        """
        for number, start in enumerate(self._starts[:-1].tolist()):
            file = self._parts.mapped(number)
            for inside in range(0, len(file), size):
                yield start + inside, file[inside : inside + size]

    def take(self, rows: Rows) -> Vectors:
        """Return the vectors (len(rows), D) of some rows, in their order."""
        return vectors_of(self.artifact, self.side, rows)

    def sample(self, size: int, seed: int) -> tuple[Rows, Vectors]:
        """Return random rows without repetition, sorted, and their vectors."""
        random = np.random.default_rng(seed)
        rows = np.sort(random.choice(self.rows, size=min(size, self.rows), replace=False))
        return rows, self.take(rows)

    def refuse_bad(self, rows: Rows, vectors: Vectors) -> None:
        """Refuse vectors that are not finite or not of unit length: FAISS would silently never find
        them.

        Raises:
            InputError: Naming the file, the row in it and its key.
        """
        for bad in bad_rows(vectors)[:1]:
            row = int(rows[bad])
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            described = row_metadata(self.artifact, [row], ["image_path", "url"]).iloc[0]
            key, url = described.fillna("")
            name = f"key {key!r}" if key else f"url {url!r}"
            raise InputError(
                f"{self._parts.path(number)}: row {row - self._starts[number]} ({name}) has length "
                f"{np.linalg.norm(vectors[bad])}, not 1, so a search could never rank it; "
                "rematerialize `corpus_embeddings`"
            )
