"""Vectors and metadata of the corpus, read back row by row.

Shapes: N rows of the corpus, D width.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.embedding.parts import Parts, Rows, Vectors, holding, part_starts
from react_pipeline.store import Artifact

Side = Literal["image", "text"]
FOLDERS: dict[Side, str] = {"image": "img_emb", "text": "text_emb"}
METADATA = "metadata"
DIGITS = 6
"""Width of the number of a part in the names of its files."""
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


def vector_parts(artifact: Artifact, side: Side) -> Parts:
    """Return the `.npy` files of one side."""
    return _parts(artifact, FOLDERS[side])


def vector_files(artifact: Artifact, side: Side) -> list[Path]:
    """Return the `.npy` files of one side in the order of rows."""
    parts = vector_parts(artifact, side)
    return [parts.folder / name for name in parts.names]


def read_metadata(artifact: Artifact, columns: list[str] | None = None) -> pd.DataFrame:
    """Read the metadata of all pairs; the index is the row number, in the vectors and in the FAISS
    index.

    All rows come into memory: 400 million captions are 40 GB. For chosen rows there is
    `row_metadata`.

    Args:
        columns: Only these; a field that no sample had, of a group or of all, is missing (NaN)
            there.
    """
    parts = _parts(artifact, METADATA)
    tables = []
    for number in range(len(parts.names)):
        with pq.ParquetFile(parts.path(number)) as file:
            names = [name for name in columns or () if name in file.schema_arrow.names]
            tables.append(file.read(columns=None if columns is None else names).to_pandas())
    table = pd.concat(tables, ignore_index=True)
    return table if columns is None else table.reindex(columns=columns)


def field_names(artifact: Artifact) -> Iterator[str]:
    """Yield the fields that any sample of the corpus had; only schemas are read."""
    parts = _parts(artifact, METADATA)
    seen: set[str] = set()
    for number in range(len(parts.names)):
        with pq.ParquetFile(parts.path(number)) as file:
            names = [name for name in file.schema_arrow.names if name not in seen]
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
    parts = _parts(artifact, METADATA)
    tables = []
    for number, places, inside in parts.holding(distinct):
        with pq.ParquetFile(parts.path(number)) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            lengths = [
                file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
            ]
            for group, here, chosen in holding(part_starts(lengths), inside):
                table = file.read_row_group(group, columns=present).take(chosen).to_pandas()
                tables.append(table.set_axis(distinct[places[here]]))
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables).reindex(columns=columns).loc[rows]


def row_vectors(artifact: Artifact, side: Side, rows: npt.ArrayLike) -> Vectors:
    """Read vectors (N, D) of some rows, in their order; the files are mapped, so only the pages
    that hold these are read.

    Raises:
        IndexError: If the corpus has no such row.
    """
    rows = np.asarray(rows, np.int64)
    parts = vector_parts(artifact, side)
    vectors = np.empty((len(rows), artifact.counts["dimension"]), np.float32)
    for number, places, inside in parts.holding(rows):
        vectors[places] = parts.mapped(number)[inside]
    return vectors


_starts: dict[tuple[str, str], Rows] = {}
"""The first row of each file of an artifact, and the number of all rows."""


def _parts(artifact: Artifact, folder: str) -> Parts:
    # What was built again at the same place is another artifact.
    identity = artifact.address, artifact.manifest["digest"]
    if identity not in _starts:
        with artifact.file(GROUPS_FILE).open(encoding="utf-8") as lines:
            rows = [count for line in lines if (count := json.loads(line)["rows"])]
        _starts[identity] = part_starts(rows)
    names = _files(artifact, folder)
    return Parts(artifact.folder_with(names), names, _starts[identity])


def _files(artifact: Artifact, folder: str) -> list[str]:
    # Of the manifest, not of the folder: a stray file would shift the rows.
    return sorted(name for name in artifact.manifest["files"] if name.startswith(f"{folder}/"))
