"""Vectors in all forms in which collections publish them: `.npy`, a member of `.npz`, or a column
of lists in parquet.

A name is a path; of something inside a file it is `FILE/MEMBER`, such as `part.npz/l14_img` or
`part.parquet/vector`. Pickles are never loaded. Shapes: N rows, D width. Does not belong here:
which files make a collection (`ready_layout`).
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from react_pipeline.corpus import open_table
from react_pipeline.store import CorpusError, open_regular

BLOCK_ROWS = 65_536
DAMAGED_REMEDY = "copy it again from where it came, or take its part away"
MAX_EXPANSION = 100
"""Of a compressed member; that of vectors is below 2."""


def outer_file(name: str) -> str:
    """Return the file that a name is in."""
    outer = name.rpartition("/")[0]
    return outer if outer.endswith((".npz", ".parquet")) else name


def read_shape(path: Path) -> tuple[int, int]:
    """Return rows and width, without reading the vectors; errors as of `open_vectors`."""
    if path.parent.suffix == ".parquet":
        with whole_vectors(path), open_table(path.parent) as file:
            if path.name not in file.schema_arrow.names:
                raise KeyError(path.name)
            batches = file.iter_batches(1, columns=[path.name])
            first = next((batch.column(0) for batch in batches), None)
            return file.metadata.num_rows, 0 if first is None else _matrix(first).shape[1]
    if path.parent.suffix != ".npz":
        return open_vectors(path).shape
    with whole_vectors(path), open_regular(path.parent), zipfile.ZipFile(path.parent) as archive:
        with archive.open(f"{path.name}.npy") as member:
            np.lib.format.read_magic(member)
            # Version 1, as numpy writes arrays of numbers.
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        return _require_rows(path, shape, dtype)


def open_vectors(path: Path) -> NDArray[Any]:
    """Map vectors (N, D) of `.npy`; a member of `.npz` comes into memory.

    Raises:
        CorpusError: If it is not a complete array of float16 or float32 with two axes, or the
            member is missing.
    """
    is_member = path.parent.suffix == ".npz"
    with whole_vectors(path), open_regular(path.parent if is_member else path):
        if is_member:
            with np.load(path.parent, allow_pickle=False) as archive:
                member = archive.zip.getinfo(f"{path.name}.npy")
                if member.file_size > MAX_EXPANSION * member.compress_size:
                    raise ValueError(
                        f"{member.compress_size:,} bytes hold {member.file_size:,}, which no "
                        "vectors do"
                    )
                vectors = archive[path.name]
        else:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        _require_rows(path, vectors.shape, vectors.dtype)
        return np.asarray(vectors)


_ANOTHER_WIDTH = "a vector is missing, or has another width than others"


def vector_blocks(path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield all vectors in order: the first row of each block, and the block; errors as of
    `open_vectors`.
    """
    if path.parent.suffix != ".parquet":
        vectors = open_vectors(path)
        for start in range(0, len(vectors), BLOCK_ROWS):
            yield start, vectors[start : start + BLOCK_ROWS]
        return
    start, widths = 0, set[int]()
    with whole_vectors(path), open_table(path.parent) as file:
        for batch in file.iter_batches(BLOCK_ROWS, columns=[path.name]):
            block = _matrix(batch.column(0))
            widths.add(block.shape[1])
            if len(widths) > 1:
                raise ValueError(_ANOTHER_WIDTH)
            yield start, block
            start += len(block)


@contextmanager
def whole_vectors(path: Path) -> Iterator[None]:
    """Report what is raised within where a file of vectors is cut or damaged.

    Raises:
        CorpusError: Naming the file, or the member or column that it lacks.
    """
    try:
        yield
    except CorpusError:
        raise
    except KeyError as error:
        raise CorpusError(
            f"{path.parent}: has no member or column {path.name!r} (corpus.layout)"
        ) from error
    # Hostile headers make numpy, zipfile and pyarrow raise nearly anything.
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise CorpusError(
            f"{path}: the file is truncated or damaged ({words}); {DAMAGED_REMEDY}"
        ) from error


def _require_rows(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
    if len(shape) != 2 or dtype not in (np.float16, np.float32):
        raise CorpusError(f"{path}: {dtype} {shape}; rows of float16 or float32 vectors are needed")
    return shape[0], shape[1]


def _matrix(column: pa.Array) -> NDArray[Any]:
    kind = column.type
    if not isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        raise ValueError(f"the column holds {kind}, not lists of numbers")
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    values = column.flatten()
    if len(widths) != 1 or widths[0] is None or values.null_count:
        raise ValueError(_ANOTHER_WIDTH)
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(column), widths[0])
