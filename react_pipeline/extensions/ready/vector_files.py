"""Vectors in all forms in which collections publish them: `.npy`, a member of `.npz`, or a column
of lists in parquet.

Names are those of `embedding.mapped_vectors`, or `part.parquet/vector`. Shapes: N rows, D width.
Does not belong here: which files make a collection (`layout`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from react_pipeline.corpus import open_table
from react_pipeline.embedding import open_vectors, whole_vectors

BLOCK_ROWS = 65_536


def shape_of(path: Path) -> tuple[int, int]:
    """Rows and width; errors as of `open_vectors`."""
    if path.parent.suffix != ".parquet":
        rows, width = open_vectors(path).shape
        return rows, width
    with whole_vectors(path), open_table(path.parent) as file:
        if path.name not in file.schema_arrow.names:
            raise KeyError(path.name)
        first = next((batch.column(0) for batch in file.iter_batches(1, columns=[path.name])), None)
        return file.metadata.num_rows, 0 if first is None else _matrix(first).shape[1]


def vector_blocks(path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    """All vectors in order: the first row of each block, and the block; errors as of
    `open_vectors`.
    """
    if path.parent.suffix != ".parquet":
        vectors = open_vectors(path)
        for start in range(0, len(vectors), BLOCK_ROWS):
            yield start, vectors[start : start + BLOCK_ROWS]
        return
    start = 0
    with whole_vectors(path), open_table(path.parent) as file:
        for batch in file.iter_batches(BLOCK_ROWS, columns=[path.name]):
            yield start, _matrix(batch.column(0))
            start += batch.num_rows


def take_vectors(path: Path, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors of some rows, which ascend; errors as of `open_vectors`."""
    if path.parent.suffix != ".parquet":
        return open_vectors(path)[rows].astype(np.float32)
    pieces = [
        _matrix(group.combine_chunks()[path.name].chunk(0))
        for group in take_rows(path.parent, rows, [path.name])
    ]
    return np.concatenate(pieces).astype(np.float32)


def take_rows(path: Path, rows: NDArray[np.int64], columns: list[str]) -> Iterator[pa.Table]:
    """Some rows of a parquet file, which ascend; only row groups that hold one are read, one at a
    time.
    """
    with whole_vectors(path), open_table(path) as file:
        start = 0
        for number in range(file.num_row_groups):
            end = start + file.metadata.row_group(number).num_rows
            if len(inside := rows[(rows >= start) & (rows < end)]):
                yield file.read_row_group(number, columns=columns).take(inside - start)
            start = end


def _matrix(column: pa.Array) -> NDArray[Any]:
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise ValueError(f"the column holds {kind}, not lists of numbers")
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    values = column.flatten()
    if len(widths) != 1 or widths[0] is None or values.null_count:
        raise ValueError("a vector is missing, or has another width than others")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), widths[0])
