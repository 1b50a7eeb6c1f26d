"""Filling an index on a cluster: each task adds some of the rows to an empty copy, and the parts are merged here.

Belongs here: what a task adds, and the merging. Does not belong here: training, tuning and measuring, which stay on one
machine (`indexing.build`), the cluster (`distributor`).

Rows are assigned to cells chunk by chunk as on one machine, and the parts are merged in the order of the rows, so the
result is the same file. Only indices of cells have parts that can be merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from react_pipeline.embedding import Side
from react_pipeline.indexing.files import inverted_lists, read_index, write_index
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.project import require_shared, spread
from react_pipeline.settings import DistributorConfig
from react_pipeline.store import Artifact, seal, sealed

PART_ROWS = 2_000_000
"""Rows of a task: 2 GB of vectors of 512 numbers to read, some minutes of work."""
STAGE = "faiss_index"


def can_be_spread(index: Any) -> bool:
    """Whether parts of such an index can be filled apart and merged."""
    return inverted_lists(index) is not None


def trained_file(staging: Path, side: Side, key: str) -> Path:
    """The file of a build's trained, empty index, for its tasks and for a build resumed after a kill."""
    return staging / f"{side}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.trained"


def fill(
    index: Any, stored: StoredVectors, embeddings: Artifact, side: Side, trained: Path, settings: DistributorConfig
) -> None:
    """Add all rows to a trained, empty index of cells. Parts that a killed build had finished are used.

    Args:
        trained: As of `trained_file`; written if it is not there, else `index` was read from it.

    Raises:
        InputError: If a vector cannot be ranked.
    """
    if not trained.exists():
        write_index(index, trained)
    parts = list(cut(stored.starts(), PART_ROWS, stored.rows))
    spread(AddTask(embeddings, side, trained), parts, settings, f"adding to the {side} index")
    for part in parts:
        index.merge_from(read_index(part_file(trained, part[0]), STAGE, mapped=False), index.ntotal)


def cut(chunks: Iterator[int], part_rows: int, rows: int) -> Iterator[tuple[int, int]]:
    """First row, and the one behind the last, of each part: whole chunks, so that all are assigned as they would be."""
    start = 0
    for chunk in chunks:
        if chunk - start >= part_rows:
            yield start, chunk
            start = chunk
    yield start, rows


def part_file(trained: Path, first: int) -> Path:
    """The file of the part that begins with a row."""
    return trained.with_suffix(f".{first}.part")


@dataclass(frozen=True)
class AddTask:
    """Adds rows to a copy of the trained index; of one item, the first row and the one behind the last."""

    embeddings: Artifact
    side: Side
    trained: Path

    def __call__(self, rows: tuple[int, int]) -> None:
        """Write the part, unless it was written before."""
        require_shared(self.trained.parent)
        path = part_file(self.trained, rows[0])
        marker = path.with_name(f"{path.name}.done")
        if sealed(marker):
            return
        index = read_index(self.trained, STAGE, mapped=False)
        stored = StoredVectors(self.embeddings, self.side)
        for first, vectors in stored.chunks(rows[0]):
            if first >= rows[1]:
                break
            stored.refuse_bad(np.arange(first, first + len(vectors)), vectors)
            index.add(vectors)
        # Another attempt at the same task may be at work.
        written = path.with_name(f"{path.name}.{uuid4().hex}")
        write_index(index, written)
        written.replace(path)
        seal(marker, [path])
