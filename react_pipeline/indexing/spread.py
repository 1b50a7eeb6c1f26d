"""Filling an index on a cluster: each task adds some of the rows to an empty copy, and the parts are merged here.

Rows are assigned to cells chunk by chunk as on one machine, and the parts are merged in the order of the rows, so the
result is the same file. Only indices of cells have parts that can be merged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from react_pipeline.embedding import Side
from react_pipeline.indexing.files import read_index, write_index
from react_pipeline.indexing.vectors import StoredVectors
from react_pipeline.project import require_shared, spread
from react_pipeline.settings import DistributorConfig
from react_pipeline.store import Artifact, rename_synced, seal, sealed

PART_ROWS = 2_000_000
"""Rows of a task: 2 GB of vectors of 512 numbers to read, some minutes of work."""


def filled(trained: Path, stored: StoredVectors, settings: DistributorConfig) -> Any:
    """The trained, empty index of cells in a file, with all rows. Parts that a killed build had finished are used."""
    task, parts = AddTask(stored.artifact, stored.side, trained), stored.runs(PART_ROWS)
    spread(task, parts, settings, f"adding to the {stored.side} index")
    index = read_index(trained, mapped=False)
    for first, _ in parts:
        index.merge_from(read_index(task.file(first), mapped=False), index.ntotal)
    return index


@dataclass(frozen=True)
class AddTask:
    """Adds rows to a copy of the trained index; of one item, the first row and the one behind the last."""

    embeddings: Artifact
    side: Side
    trained: Path

    def file(self, first: int) -> Path:
        """Where the part is that begins with a row."""
        return self.trained.with_suffix(f".{first}.part")

    def __call__(self, rows: tuple[int, int]) -> None:
        """Write the part, unless it was written before."""

        def write(path: Path) -> None:
            index = read_index(self.trained, mapped=False)
            for _, vectors in StoredVectors(self.embeddings, self.side).chunks(*rows):
                index.add(vectors)
            write_index(index, path)

        write_once(self.file(rows[0]), write)


def write_once(path: Path, write: Callable[[Path], None]) -> None:
    """Write the file of a task, unless it was written before and is as it was.

    Raises:
        InputError: If this machine does not see the folder.
    """
    require_shared(path.parent)
    marker = path.with_name(f"{path.name}.done")
    if not sealed(marker):
        # Another attempt at the same task may be at work.
        written = path.with_name(f"{path.name}.{uuid4().hex}")
        write(written)
        rename_synced(written, path)
        seal(marker, [path])
