"""The vectors that an index is made of, read a chunk or a few rows at a time.

Belongs here: reading one side of `corpus_embeddings` without holding all of it, and refusing vectors that no search
could rank. Does not belong here: which files there are (`vectors`), what is done with the vectors (`indexing.build`,
`indexing.recall`). Shapes: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from react_pipeline.artifacts import Artifact
from react_pipeline.errors import CorruptArtifact, InputError
from react_pipeline.vectors import Side, row_metadata, vector_files

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

CHUNK_ROWS = 32_768
_UNIT_TOLERANCE = 0.01
"""Vectors are stored in half precision."""


class StoredVectors:
    """One side of the embeddings; its files are mapped, so memory holds only the pages that are read."""

    def __init__(self, embeddings: Artifact, side: Side) -> None:
        """Open the files' headers.

        Raises:
            CorruptArtifact: If a file is no array, or the files hold more or fewer rows than the manifest says.
        """
        self._embeddings = embeddings
        self._side = side
        self.paths = vector_files(embeddings, side)
        lengths = [len(self._map(number)) for number in range(len(self.paths))]
        self._starts = np.cumsum([0, *lengths])
        self.rows = int(self._starts[-1])
        self.dimension = int(embeddings.counts["dimension"])
        if self.rows != (expected := int(embeddings.counts["rows"])):
            raise CorruptArtifact(f"{embeddings.path}: {self.rows:,} {side} vectors, its manifest says {expected:,}")

    def chunks(self, first_row: int = 0, size: int = CHUNK_ROWS) -> Iterator[tuple[int, Vectors]]:
        """All rows from `first_row` on, in order: the number of the first row of each chunk, and its vectors."""
        for number, start in enumerate(self._starts[:-1]):
            file = self._map(number)
            for inside in range(max(first_row - int(start), 0), len(file), size):
                yield int(start) + inside, file[inside : inside + size].astype(np.float32)

    def starts(self, size: int = CHUNK_ROWS) -> Iterator[int]:
        """The first row of each of the `chunks`, without reading them."""
        for start, end in zip(self._starts[:-1], self._starts[1:], strict=True):
            yield from range(int(start), int(end), size)

    def take(self, rows: Rows) -> Vectors:
        """The vectors (len(rows), D) of some rows, in their order."""
        vectors = np.empty((len(rows), self.dimension), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = np.searchsorted(ordered, self._starts)
        for number, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if begin < end:
                vectors[order[begin:end]] = self._map(number)[ordered[begin:end] - self._starts[number]]
        return vectors

    def sample(self, size: int, seed: int) -> tuple[Rows, Vectors]:
        """Random rows without repetition, sorted, and their vectors."""
        chosen = np.random.default_rng(seed).choice(self.rows, size=min(size, self.rows), replace=False)
        rows = np.sort(chosen).astype(np.int64)
        return rows, self.take(rows)

    def refuse_bad(self, rows: Rows, vectors: Vectors) -> None:
        """Refuse vectors that are not finite or not of unit length: FAISS would never find them, without a word.

        Raises:
            InputError: Naming the file, the row in it and its key.
        """
        lengths = np.linalg.norm(vectors, axis=1)
        # A NaN compares as false, so it counts as bad.
        wrong = np.flatnonzero(~(np.abs(lengths - 1) < _UNIT_TOLERANCE))
        if len(wrong):
            row = int(rows[wrong[0]])
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            raise InputError(
                f"{self.paths[number]}: row {row - self._starts[number]}{self._name(row)} has length "
                f"{lengths[wrong[0]]}, not 1, so a search could never rank it; rematerialize `corpus_embeddings`"
            )

    def _map(self, number: int) -> Any:
        path = self.paths[number]
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CorruptArtifact(f"{path}: no array ({error}); rematerialize `corpus_embeddings`") from error

    def _name(self, row: int) -> str:
        described = row_metadata(self._embeddings, [row], ["image_path", "url"]).iloc[0]
        for column, called in (("image_path", "key"), ("url", "url")):
            if isinstance(described[column], str):
                return f" ({called} {described[column]!r})"
        return ""
