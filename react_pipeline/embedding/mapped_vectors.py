"""Files of vectors, mapped: `.npy`, or a member of `.npz`.

A name is a path; of something inside a file it is `FILE/MEMBER`, such as `part.npz/l14_img`.
Members of `.npz` that are stored and not compressed are mapped at their offset, which numpy itself
does not do. Pickles are never loaded. Shapes: N rows, D width. Does not belong here: which files
there are (`vectors`).
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from react_pipeline.store import CorpusError, open_regular

DAMAGED_REMEDY = "copy it again from where it came, or take its part away"
MAX_EXPANSION = 100
"""Of a compressed member; that of vectors is below 2."""
_LOCAL_HEADER_BYTES = 30


def file_of(name: str) -> str:
    """Return the file that a name is in."""
    outer = name.rpartition("/")[0]
    return outer if outer.endswith((".npz", ".parquet")) else name


def is_mappable(path: Path) -> bool:
    """Return whether the vectors can be used where they are, without reading all of them."""
    if path.parent.suffix == ".npz":
        with whole_vectors(path), zipfile.ZipFile(path.parent) as archive:
            return archive.getinfo(f"{path.name}.npy").compress_type == zipfile.ZIP_STORED
    return path.parent.suffix != ".parquet"


def open_vectors(path: Path) -> NDArray[Any]:
    """Map vectors (N, D) of `.npy` or `.npz`; a compressed member comes into memory.

    Raises:
        CorpusError: If it is not a complete array of float16 or float32 with two axes, or the
            member is missing.
    """
    file = path.parent if path.parent.suffix in (".npz", ".parquet") else path
    with whole_vectors(path), open_regular(file):
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
    shape = "an archive"
    if isinstance(vectors, np.ndarray):
        if vectors.ndim == 2 and vectors.dtype in (np.float16, np.float32):
            return vectors
        shape = f"{vectors.dtype} {vectors.shape}"
    raise CorpusError(f"{path}: {shape}; rows of float16 or float32 vectors are needed")


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
