"""Vectors in files as collections publish them: `.npy`, a member of `.npz`, or a column of lists in
parquet.

A name is a path; of something inside a file it is `FILE/MEMBER`, such as `part.npz/l14_img` or
`part.parquet/vector`. Members of `.npz` that are stored and not compressed are mapped at their
offset, which numpy itself does not do. Pickles are never loaded. Shapes: N rows, D width. Does not
belong here: which files make a collection (`ready_layout`).
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from react_pipeline.store import CorpusError

BLOCK_ROWS = 65_536
REMEDY = "copy it again from where it came, or take its part away"
MAX_EXPANSION = 100
"""Of a compressed member; that of vectors is below 2."""
_LOCAL_HEADER_BYTES = 30


def file_of(name: str) -> str:
    """The file that a name is in."""
    outer = name.rpartition("/")[0]
    return outer if outer.endswith((".npz", ".parquet")) else name


def is_mappable(path: Path) -> bool:
    """Whether the vectors can be used where they are, without reading all of them."""
    if path.parent.suffix == ".npz":
        with _whole(path), zipfile.ZipFile(path.parent) as archive:
            return archive.getinfo(f"{path.name}.npy").compress_type == zipfile.ZIP_STORED
    return path.parent.suffix != ".parquet"


def shape_of(path: Path) -> tuple[int, int]:
    """Rows and width; errors as of `open_vectors`."""
    if path.parent.suffix != ".parquet":
        rows, width = open_vectors(path).shape
        return rows, width
    with _whole(path), pq.ParquetFile(path.parent) as file:
        if path.name not in file.schema_arrow.names:
            raise KeyError(path.name)
        first = next((batch.column(0) for batch in file.iter_batches(1, columns=[path.name])), None)
        return file.metadata.num_rows, 0 if first is None else _matrix(first).shape[1]


def open_vectors(path: Path) -> NDArray[Any]:
    """Map vectors (N, D) of `.npy` or `.npz`; a compressed member comes into memory.

    Raises:
        CorpusError: If it is not a complete array of float16 or float32 with two axes, or the
            member is missing.
    """
    with _whole(path):
        if path.parent.suffix != ".npz":
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        elif is_mappable(path):
            vectors = _mapped_member(path)
        else:
            with np.load(path.parent, allow_pickle=False) as archive:
                member = archive.zip.getinfo(f"{path.name}.npy")
                if member.file_size > MAX_EXPANSION * member.compress_size:
                    raise ValueError(
                        f"{member.compress_size:,} bytes hold {member.file_size:,}, which no "
                        "vectors do"
                    )
                vectors = archive[path.name]
    if (
        not isinstance(vectors, np.ndarray)
        or vectors.ndim != 2
        or vectors.dtype not in (np.float16, np.float32)
    ):
        shape = (
            f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else "an archive"
        )
        raise CorpusError(f"{path}: {shape}; rows of float16 or float32 vectors are needed")
    return vectors


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
    with _whole(path), pq.ParquetFile(path.parent) as file:
        for batch in file.iter_batches(BLOCK_ROWS, columns=[path.name]):
            yield start, _matrix(batch.column(0))
            start += batch.num_rows


def take_vectors(path: Path, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors of some rows, which ascend; errors as of `open_vectors`."""
    if path.parent.suffix != ".parquet":
        return open_vectors(path)[rows].astype(np.float32)
    found = [
        _matrix(group.combine_chunks()[path.name].chunk(0))
        for group in take_rows(path.parent, rows, [path.name])
    ]
    return np.concatenate(found).astype(np.float32)


def take_rows(path: Path, rows: NDArray[np.int64], columns: list[str]) -> Iterator[pa.Table]:
    """Some rows of a parquet file, which ascend; only row groups that hold one are read, one at a
    time.
    """
    with _whole(path), pq.ParquetFile(path) as file:
        start = 0
        for number in range(file.num_row_groups):
            end = start + file.metadata.row_group(number).num_rows
            if len(inside := rows[(rows >= start) & (rows < end)]):
                yield file.read_row_group(number, columns=columns).take(inside - start)
            start = end


def _mapped_member(path: Path) -> NDArray[Any]:
    with zipfile.ZipFile(path.parent) as archive:
        start = archive.getinfo(f"{path.name}.npy").header_offset
    with path.parent.open("rb") as file:
        file.seek(start)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(_LOCAL_HEADER_BYTES)[26:])
        file.seek(start + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes)
        read_header = (
            np.lib.format.read_array_header_1_0
            if np.lib.format.read_magic(file) == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read_header(file)
        return np.memmap(path.parent, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


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


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except CorpusError:
        raise
    except KeyError as error:
        raise CorpusError(
            f"{path.parent}: has no member or column {path.name!r} (corpus.layout)"
        ) from error
    except (
        Exception
    ) as error:  # hostile headers make numpy, zipfile and pyarrow raise nearly anything
        words = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"{path}: the file is truncated or damaged ({words}); {REMEDY}"
        ) from error
