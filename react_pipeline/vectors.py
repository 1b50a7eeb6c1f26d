"""Vectors and metadata of the corpus, as an artifact `corpus_embeddings` holds them, read back row by row.

Belongs here: which files hold which rows, and reading them. Does not belong here: making them (`embed`), searching
them (`index`). Shapes: N rows of the corpus, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.artifacts import Artifact

Side = Literal["image", "text"]
FOLDERS: dict[Side, str] = {"image": "img_emb", "text": "text_emb"}


def vector_files(artifact: Artifact, side: Side) -> list[Path]:
    """The `.npy` files of one side in the order of rows."""
    return _files_in(artifact, FOLDERS[side])


def read_vectors(artifact: Artifact, side: Side) -> npt.NDArray[np.float32]:
    """All vectors of one side, (N, D) float32; row n belongs to row n of `read_metadata`."""
    files = [np.load(path, allow_pickle=False) for path in vector_files(artifact, side)]
    return np.concatenate(files).astype(np.float32)


def read_metadata(artifact: Artifact, columns: list[str] | None = None) -> pd.DataFrame:
    """The metadata of all pairs; the index is the row number, in the vectors and in the FAISS index.

    Args:
        artifact: The embeddings.
        columns: Only these; a field that no sample of a group had is missing (NaN) there.
    """
    tables = []
    for path in _files_in(artifact, "metadata"):
        present = None if columns is None else [name for name in columns if name in pq.read_schema(path).names]
        tables.append(pd.read_parquet(path, columns=present))
    table = pd.concat(tables, ignore_index=True)
    return table if columns is None else table[columns]


def image_vectors(artifact: Artifact, rows: pd.Series) -> npt.NDArray[np.float32]:
    """Image vectors (N, D) of some rows; the files are mapped, so only the pages that hold these rows are read."""
    files = [np.load(path, mmap_mode="r", allow_pickle=False) for path in vector_files(artifact, "image")]
    starts = np.cumsum([0, *(len(file) for file in files)])
    vectors = np.empty((len(rows), files[0].shape[1]), np.float32)
    wanted = rows.to_numpy()
    for start, file in zip(starts, files, strict=False):
        inside = (wanted >= start) & (wanted < start + len(file))
        vectors[inside] = file[wanted[inside] - start]
    return vectors


def _files_in(artifact: Artifact, folder: str) -> list[Path]:
    # Of the manifest, not of the folder: a stray file would shift the rows.
    return [artifact.path / name for name in sorted(artifact.manifest["files"]) if name.startswith(f"{folder}/")]
