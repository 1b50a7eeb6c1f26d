"""Vectors and metadata of the corpus, read back row by row, from where `corpus_embeddings` says
they are.

An artifact holds its vectors, or names where ready ones are (`READY_FILE`); readers see no
difference. Of ready ones the columns of URL and caption are called `url` and `caption` whatever
their names in the files, a missing one reads as "", and `image_sha256` is "", since no image has
been seen yet. Shapes: N rows of the corpus, D width.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.corpus import place_of
from react_pipeline.embedding.mapped_vectors import file_of
from react_pipeline.embedding.parts import Parts, Rows, Vectors, holding, starts_of
from react_pipeline.store import Artifact, ChangedSource, remembered_sha256

Side = Literal["image", "text"]
FOLDERS: dict[Side, str] = {"image": "img_emb", "text": "text_emb"}
METADATA = "metadata"
READY_FILE = "ready.json"
"""The file of an adopted artifact: `folder`, `columns` (our name: name in the files), `files`
(names by folder, in the order of rows), `digests` (SHA-256 by file) and `rows` (of each name)."""
GROUPS_FILE = "groups.jsonl"
"""The file of our own embeddings: one line of JSON a part, with its `rows`; a part without rows has
no files."""
LEDGER_FILE = "ledger.parquet"
"""The samples that were skipped: `shard` (number of the part), key, reason, detail, source."""


def sides(artifact: Artifact) -> tuple[Side, ...]:
    """Return the sides that have vectors; where images wait, only `text`."""
    names = _layout(artifact).names
    return tuple(side for side, folder in FOLDERS.items() if names.get(folder))


def vector_parts(artifact: Artifact, side: Side) -> Parts:
    """Return the `.npy` files of one side."""
    return _layout(artifact).parts(artifact, FOLDERS[side])


def vector_files(artifact: Artifact, side: Side) -> list[Path]:
    """Return the `.npy` files of one side in the order of rows.

    Raises:
        ChangedSource: If one of ready embeddings is gone or has changed since it was adopted.
    """
    parts = vector_parts(artifact, side)
    return [parts.path(number) for number in range(len(parts.names))]


def read_metadata(artifact: Artifact, columns: list[str] | None = None) -> pd.DataFrame:
    """Read the metadata of all pairs; the index is the row number, in the vectors and in the FAISS
    index.

    All rows come into memory: 400 million captions are 40 GB. For chosen rows there is
    `row_metadata`.

    Args:
        columns: Only these; a field that no sample had, of a group or of all, is missing (NaN)
            there.
    """
    layout = _layout(artifact)
    parts = layout.parts(artifact, METADATA)
    tables = []
    for number in range(len(parts.names)):
        with parts.parquet(number) as file:
            part = file.read(columns=layout.present(file, columns)).to_pandas()
            tables.append(layout.named(part, columns))
    table = pd.concat(tables, ignore_index=True)
    return table if columns is None else table.reindex(columns=columns)


def field_names(artifact: Artifact) -> Iterator[str]:
    """Yield the fields that any sample of the corpus had; only schemas are read."""
    layout = _layout(artifact)
    parts = layout.parts(artifact, METADATA)
    seen: set[str] = set()
    for number in range(len(parts.names)):
        with parts.parquet(number) as file:
            columns = file.schema_arrow.empty_table().to_pandas()
        names = [str(name) for name in layout.named(columns, None) if name not in seen]
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
    layout = _layout(artifact)
    parts = layout.parts(artifact, METADATA)
    tables = []
    for number, places, inside in parts.holding(distinct):
        with parts.parquet(number) as file:
            present = layout.present(file, columns)
            lengths = [
                file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
            ]
            for group, here, chosen in holding(starts_of(lengths), inside):
                table = file.read_row_group(group, columns=present).take(chosen).to_pandas()
                tables.append(layout.named(table, columns).set_axis(distinct[places[here]]))
    if not tables:
        return pd.DataFrame(columns=columns)
    return pd.concat(tables).reindex(columns=columns).loc[rows]


def vectors_of(artifact: Artifact, side: Side, rows: npt.ArrayLike) -> Vectors:
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


@dataclass(frozen=True)
class _Layout:
    """The files that an artifact lists; ready ones may be moved at any time."""

    names: dict[str, list[str]]
    """Names of files by folder, in the order of rows."""
    starts: Rows
    """Like `Parts.starts`, the same for each folder."""
    folder: str = ""
    """The folder of ready files when they were adopted."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our name -> name in the files, where they differ in meaning; empty for our own files."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of ready files, which anyone may change."""

    def parts(self, artifact: Artifact, folder: str) -> Parts:
        if not self.digests:
            names = self.names[folder]
            return Parts(artifact.folder_with(names), names, self.starts)
        root = artifact.root
        base = Path(place_of(root, artifact.parents["corpus"], recorded=self.folder))
        check = partial(_check_unchanged, root, base, self.digests)
        return Parts(base, self.names[folder], self.starts, check)

    def present(self, file: pq.ParquetFile, columns: list[str] | None) -> list[str] | None:
        if columns is None:
            return None
        names = (self.columns.get(name, name) for name in columns)
        return [name for name in names if name in file.schema_arrow.names]

    def named(self, table: pd.DataFrame, columns: list[str] | None) -> pd.DataFrame:
        if not self.columns:
            return table
        # A file may use our name for something else, which then gives way.
        theirs = {name: ours for ours, name in self.columns.items()}
        taken = [name for name in self.columns if name in table and name not in theirs]
        table = table.drop(columns=taken).rename(columns=theirs)
        for name in self.columns.keys() & set(table):
            table[name] = table[name].fillna("")
        if columns is None or "image_sha256" in columns:
            table = table.assign(image_sha256="")
        return table


_layouts: dict[tuple[str, str], _Layout] = {}


def _layout(artifact: Artifact) -> _Layout:
    # What was built again at the same place is another artifact.
    identity = artifact.address, artifact.manifest["digest"]
    if identity not in _layouts:
        _layouts[identity] = _read_layout(artifact)
    return _layouts[identity]


def _read_layout(artifact: Artifact) -> _Layout:
    # Of the manifest, not of the folder: a stray file would shift the rows.
    names = sorted(artifact.manifest["files"])
    if READY_FILE in names:
        ready = json.loads(artifact.file(READY_FILE).read_text())
        starts = starts_of(ready["rows"])
        return _Layout(ready["files"], starts, ready["folder"], ready["columns"], ready["digests"])
    with artifact.file(GROUPS_FILE).open(encoding="utf-8") as lines:
        rows = [json.loads(line)["rows"] for line in lines]
    files = {
        folder: [name for name in names if name.startswith(f"{folder}/")]
        for folder in (*FOLDERS.values(), METADATA)
    }
    return _Layout(files, starts_of([count for count in rows if count]))


def _check_unchanged(root: Path, folder: Path, digests: Mapping[str, str], name: str) -> None:
    path = folder / file_of(name)
    if not path.is_file() or remembered_sha256(root, path) != digests[file_of(name)]:
        raise ChangedSource(
            f"{path}: is gone or has changed since `corpus` was materialized; put it back, or "
            "materialize that again"
        )
