"""Vectors and metadata of the corpus, in files that follow one another, read back row by row.

Shapes: N rows of the corpus, D width.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.store import Artifact

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
UNIT_TOLERANCE = 0.01
"""Vectors are stored in half precision."""
Side = Literal["image", "text"]
FOLDERS: dict[Side, str] = {"image": "img_emb", "text": "text_emb"}
METADATA = "metadata"
DIGITS = 6
"""Width of the number of a part in the names of its files."""
BLOCK_ROWS = 16_384
GROUPS_FILE = "groups.jsonl"
"""One line of JSON a part, with its `rows`; a part without rows has no files."""
LEDGER_FILE = "ledger.parquet"
"""The samples that were skipped: `shard` (number of the part), key, reason, detail, source."""


def part_file(folder: str, number: int) -> str:
    """Return the name of a part's vectors or metadata, as clip-retrieval names them; a part without
    rows has no such file.
    """
    return f"{folder}/{folder}_{number:0{DIGITS}d}.{'parquet' if folder == METADATA else 'npy'}"


def sides(artifact: Artifact) -> tuple[Side, ...]:
    """Return the sides that have vectors; where images wait, only `text`."""
    return tuple(side for side, folder in FOLDERS.items() if _files(artifact, folder))


class StoredVectors:
    """Vectors of one side, row by row; a file is mapped while its rows are read, so memory holds
    only those pages.
    """

    def __init__(self, artifact: Artifact, side: Side) -> None:
        """Open no file yet."""
        self.artifact, self.side = artifact, side
        self._files, self._starts = _parts(artifact, FOLDERS[side])
        self.rows = int(self._starts[-1])
        self.dimension = int(artifact.counts["dimension"])

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield all rows: the first of each block, and its vectors (N, D) as they are stored."""
        for number, start in enumerate(self._starts[:-1].tolist()):
            file = self._mapped(number)
            for first in range(0, len(file), size):
                yield start + first, np.array(file[first : first + size])

    def take(self, rows: npt.ArrayLike) -> Vectors:
        """Read the vectors (N, D) of some rows, in their order.

        Raises:
            IndexError: If the corpus has no such row.
        """
        rows = np.asarray(rows, np.int64)
        vectors = np.empty((len(rows), self.dimension), np.float32)
        for number, places, inside in holding(self._starts, rows):
            vectors[places] = self._mapped(number)[inside]
        return vectors

    def sample(self, size: int, seed: int) -> tuple[Rows, Vectors]:
        """Return random rows without repetition, sorted, and their vectors."""
        random = np.random.default_rng(seed)
        rows = np.sort(random.choice(self.rows, size=min(size, self.rows), replace=False))
        return rows, self.take(rows)

    def _mapped(self, number: int) -> npt.NDArray[Any]:
        """Map a file of vectors (rows, D); only the pages that are used will be read."""
        return np.asarray(np.load(self._files[number], mmap_mode="r", allow_pickle=False))


def read_metadata(artifact: Artifact, columns: list[str] | None = None) -> pd.DataFrame:
    """Read the metadata of all pairs; the index is the row number, in the vectors and in the FAISS
    index.

    All rows come into memory: 400 million captions are 40 GB. For chosen rows there is
    `row_metadata`.

    Args:
        columns: Only these; a field that no sample had, of a group or of all, is missing (NaN)
            there.
    """
    files, _ = _parts(artifact, METADATA)
    # A column that a file does not have is passed over.
    tables = (pq.ParquetFile(file).read(columns).to_pandas() for file in files)
    table = pd.concat(tables, ignore_index=True)
    return table if columns is None else table.reindex(columns=columns)


def field_names(artifact: Artifact) -> Iterator[str]:
    """Yield the fields that any sample of the corpus had; only schemas are read."""
    seen = set[str]()
    files, _ = _parts(artifact, METADATA)
    for file in files:
        names = [name for name in pq.read_schema(file).names if name not in seen]
        seen.update(names)
        yield from names


def row_metadata(
    artifact: Artifact,
    rows: Sequence[int] | npt.NDArray[Any] | pd.Series,
    columns: list[str],
) -> pd.DataFrame:
    """Read the metadata of some rows, in their order; the index is the row number.

    Only the row groups that hold one of them are read, one at a time, so time and memory follow
    what is asked for.

    Raises:
        IndexError: If the corpus has no such row.
    """
    rows = np.asarray(rows, dtype=np.int64)
    distinct = np.unique(rows)
    files, starts = _parts(artifact, METADATA)
    tables = []
    for number, places, inside in holding(starts, distinct):
        with pq.ParquetFile(files[number]) as file:
            lengths = [
                file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
            ]
            for group, here, chosen in holding(part_starts(lengths), inside):
                table = file.read_row_group(group, columns=columns).take(chosen).to_pandas()
                tables.append(table.set_axis(distinct[places[here]]))
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables).reindex(columns=columns).loc[rows]


def _parts(artifact: Artifact, folder: str) -> tuple[list[str], Rows]:
    """Return the files of one kind that follow one another, of which the corpus has tens of
    thousands; the first row of each, and the number of all rows.

    Open a file only if one of its rows is asked for, and close it before the next one: no process
    may hold so many open, and opening all takes seconds.
    """
    names = _files(artifact, folder)
    parent = artifact.folder_with(names)
    starts = _starts(artifact.file(GROUPS_FILE), artifact.manifest["digest"])
    return [f"{parent}/{name}" for name in names], starts


@cache
def _starts(groups: Path, _artifact: str) -> Rows:
    # What was built again at the same place is another artifact.
    with groups.open(encoding="utf-8") as lines:
        return part_starts([count for line in lines if (count := json.loads(line)["rows"])])


def _files(artifact: Artifact, folder: str) -> list[str]:
    # Of the manifest, not of the folder: a stray file would shift the rows.
    return sorted(name for name in artifact.manifest["files"] if name.startswith(f"{folder}/"))


def bad_rows(vectors: Vectors) -> Rows:
    """Return the rows of (N, D) that are not finite or not of unit length."""
    lengths = np.linalg.norm(vectors, axis=1)
    # A NaN compares as false, so it counts as bad.
    return np.flatnonzero(~(np.abs(lengths - 1) < UNIT_TOLERANCE))


def part_starts(lengths: Sequence[int]) -> Rows:
    """Return the first row of each of several runs of rows, and the number of all rows."""
    return np.cumsum([0, *lengths], dtype=np.int64)


def holding(starts: Rows, rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
    """Yield the runs that hold one of `rows`, in their order: number, positions in `rows`, rows
    counted in the run.

    Args:
        starts: As `part_starts` gives them.

    Raises:
        IndexError: If there is no such row.
    """
    if not len(rows):
        return
    if rows.min() < 0 or rows.max() >= starts[-1]:
        raise IndexError(f"rows {rows.min()} to {rows.max()} of a corpus of {starts[-1]:,}")
    order = np.argsort(rows, kind="stable")
    numbers = np.searchsorted(starts, rows[order], side="right") - 1
    distinct, begins = np.unique(numbers, return_index=True)
    for number, places in zip(distinct.tolist(), np.split(order, begins[1:]), strict=True):
        yield number, places, rows[places] - starts[number]
