"""Vectors and metadata of the corpus, read back row by row, wherever `corpus_embeddings` says they lie.

Belongs here: which files hold which rows, and reading them. Does not belong here: making them (`embed`), adopting ready
ones (`ready_embeddings`), searching them (`index`). Shapes: N rows of the corpus, D width.

An artifact holds its vectors, or names where ready ones lie (`READY_FILE`); readers see no difference. Of ready ones
the columns of URL and caption are called `url` and `caption` whatever their names in the files, a missing one
reads as "", and `image_sha256` is "", since no image has been seen yet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.artifacts import Artifact
from react_pipeline.digests import CACHE, remembered_sha256
from react_pipeline.errors import CorpusError

Side = Literal["image", "text"]
FOLDERS: dict[Side, str] = {"image": "img_emb", "text": "text_emb"}
METADATA = "metadata"
READY_FILE = "ready.json"
"""Of an adopted artifact: `folder`, `columns` (our name: name in the files), `files` ([name, SHA-256] in order)."""

_unchanged: dict[Path, tuple[int, int]] = {}


def vector_files(artifact: Artifact, side: Side) -> list[Path]:
    """The `.npy` files of one side in the order of rows.

    Raises:
        CorpusError: If a file of ready embeddings is gone or has changed since it was adopted.
    """
    return _layout(artifact).files[FOLDERS[side]]


def read_vectors(artifact: Artifact, side: Side) -> npt.NDArray[np.float32]:
    """All vectors of one side, (N, D) float32; row n belongs to row n of `read_metadata`."""
    files = [np.load(path, mmap_mode="r", allow_pickle=False) for path in vector_files(artifact, side)]
    return np.concatenate(files, dtype=np.float32)


def read_metadata(artifact: Artifact, columns: list[str] | None = None) -> pd.DataFrame:
    """The metadata of all pairs; the index is the row number, in the vectors and in the FAISS index.

    All rows come into memory: 400 million captions are 40 GB. For chosen rows there is `row_metadata`.

    Args:
        artifact: The embeddings.
        columns: Only these; a field that no sample had, of a group or of all, is missing (NaN) there.
    """
    layout = _layout(artifact)
    tables = []
    for path in layout.files[METADATA]:
        file = pq.ParquetFile(path)
        tables.append(layout.named(file.read(columns=layout.present(file, columns)).to_pandas(), columns))
    table = pd.concat(tables, ignore_index=True)
    return table if columns is None else table.reindex(columns=columns)


def row_metadata(
    artifact: Artifact, rows: Sequence[int] | npt.NDArray[Any] | pd.Series, columns: list[str]
) -> pd.DataFrame:
    """The metadata of some rows, in their order; the index is the row number.

    Only the row groups that hold one of them are read, one at a time, so memory follows what is asked for.

    Raises:
        IndexError: If the corpus has no such row.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    layout = _layout(artifact)
    distinct = np.unique(wanted)
    parts, start = [], 0
    for path in layout.files[METADATA]:
        file = pq.ParquetFile(path)
        present = layout.present(file, columns)
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = distinct[np.searchsorted(distinct, start) : np.searchsorted(distinct, end)]
            if len(inside):
                chosen = file.read_row_group(group, columns=present).take(inside - start).to_pandas()
                parts.append(layout.named(chosen, columns).set_axis(inside))
            start = end
    if len(distinct) and not 0 <= distinct[0] <= distinct[-1] < start:
        raise IndexError(f"{artifact.path}: rows {distinct[0]} to {distinct[-1]} of a corpus of {start:,}")
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts).reindex(columns=columns).loc[wanted]


def image_vectors(artifact: Artifact, rows: pd.Series) -> npt.NDArray[np.float32]:
    """Image vectors (N, D) of some rows; the files are mapped, so only the pages that hold these rows are read."""
    return vectors_of(vector_files(artifact, "image"), rows.to_numpy())


def vectors_of(paths: Sequence[Path], rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Vectors (N, D) of some rows of files that follow one another."""
    files = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    starts = np.cumsum([0, *(len(file) for file in files)])
    vectors = np.empty((len(rows), files[0].shape[1]), np.float32)
    for start, file in zip(starts, files, strict=False):
        inside = (rows >= start) & (rows < start + len(file))
        if inside.any():
            vectors[inside] = file[rows[inside] - start]
    return vectors


def remember_folder(artifact: Artifact, folder: Path) -> None:
    """Keep where ready embeddings lie now, outside their artifact `corpus`, which never changes."""
    from react_pipeline.durable import write_atomically

    write_atomically(_moved_to(artifact.path.parents[2], artifact.fingerprint), json.dumps(str(folder)))


@dataclass(frozen=True)
class _Layout:
    files: dict[str, list[Path]]
    columns: dict[str, str] = field(default_factory=dict)
    """Our name -> name in the files, where they differ in meaning; empty for our own files."""

    def present(self, file: pq.ParquetFile, columns: list[str] | None) -> list[str] | None:
        if columns is None:
            return None
        return [
            name for name in (self.columns.get(column, column) for column in columns) if name in file.schema_arrow.names
        ]

    def named(self, table: pd.DataFrame, columns: list[str] | None) -> pd.DataFrame:
        if not self.columns:
            return table
        # A file may use our name for something else, which then gives way.
        taken = [name for name in self.columns if name in table and name not in self.columns.values()]
        table = table.drop(columns=taken).rename(columns={theirs: ours for ours, theirs in self.columns.items()})
        for name in {"url", "caption"} & set(table):
            table[name] = table[name].fillna("")
        return table.assign(image_sha256="") if columns is None or "image_sha256" in columns else table


def _layout(artifact: Artifact) -> _Layout:
    names = sorted(artifact.manifest["files"])
    folders = [*FOLDERS.values(), METADATA]
    if READY_FILE not in names:
        # Of the manifest, not of the folder: a stray file would shift the rows.
        paths = {
            folder: [artifact.path / name for name in names if name.startswith(f"{folder}/")] for folder in folders
        }
        return _Layout(paths)
    ready = json.loads(artifact.file(READY_FILE).read_text())
    root = artifact.path.parents[2]
    moved = _moved_to(root, artifact.parents["corpus"])
    base = Path(json.loads(moved.read_text()) if moved.exists() else ready["folder"])
    located = {
        folder: [base / name for name, _ in ready["files"] if name.startswith(f"{folder}/")] for folder in folders
    }
    for name, sha256 in ready["files"]:
        _check_unchanged(root, base / name, sha256)
    return _Layout(located, ready["columns"])


def _check_unchanged(root: Path, path: Path, sha256: str) -> None:
    try:
        stat = path.stat()
    except OSError as error:
        raise CorpusError(f"{path}: is gone; put it back, or materialize `corpus` again") from error
    stamp = (stat.st_size, stat.st_mtime_ns)
    if _unchanged.get(path) != stamp:
        if remembered_sha256(root, path) != sha256:
            raise CorpusError(
                f"{path}: has changed since `corpus` was materialized; put it back, or materialize `corpus` again"
            )
        _unchanged[path] = stamp


def _moved_to(root: Path, corpus: str) -> Path:
    return root / CACHE / "ready_embeddings" / f"{corpus}.json"
