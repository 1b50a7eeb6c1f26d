"""FAULTS 47, 48, 54, 55, 56: small files that would take much memory or time, and headers that
raise anything.
"""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from react_pipeline.corpus import Skipped, images, index_shard
from react_pipeline.extensions.sources.image_files import _read_table
from react_pipeline.extensions.sources.kinds import Images
from react_pipeline.extensions.sources.vector_files import open_vectors
from react_pipeline.store import CorpusError


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_an_extended_header_of_digits_is_refused(tmp_path: Path, kind: bytes) -> None:  # 47
    header = tarfile.TarInfo("x")
    header.type, digits = kind, b"1" * 20_000
    header.size = len(digits)
    (tmp_path / "0.tar").write_bytes(
        header.tobuf(tarfile.USTAR_FORMAT) + digits.ljust(20_480, b"\0") + b"\0" * 1024
    )
    with pytest.raises(CorpusError, match=r"0\.tar.*extended header"):
        index_shard(tmp_path / "0.tar")


def test_an_ordinary_extended_header_is_read(tmp_path: Path) -> None:
    long_name = f"{'a' * 200}/{'7' * 99}.txt"
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(long_name)
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    assert [sample.key for sample in index_shard(tmp_path / "0.tar").samples] == [
        long_name.removesuffix(".txt")
    ]


@pytest.mark.parametrize("name", ["image", "jpg"])
def test_a_repeated_parquet_image_is_read_a_row_at_a_time(tmp_path: Path, name: str) -> None:  # 48
    image, rows = b"x" * (1 << 20), 300
    column: pa.Array = pa.array([image] * rows)
    if name == "image":
        column = pa.StructArray.from_arrays([column, pa.array([""] * rows)], ["bytes", "path"])
    table = pa.table({name: column, "caption": ["a"] * rows})
    pq.write_table(table, tmp_path / "a.parquet", dictionary_pagesize_limit=2 << 20)
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    corpus = Images(images=[str(tmp_path)])
    held = pa.total_allocated_bytes()
    found = _read_table(tmp_path / "a.parquet", corpus)
    assert next(found)[0] == image
    assert pa.total_allocated_bytes() - held < 5 * len(image)
    rest = list(found)
    assert len(rest) == rows - 1 and not any(isinstance(pair, Skipped) for pair in rest)


def test_a_compressed_bomb_of_vectors_is_not_unpacked(
    tmp_path: Path,
) -> None:  # 56
    np.savez_compressed(tmp_path / "a.npz", vectors=np.zeros((100_000, 64), np.float32))
    with pytest.raises(CorpusError, match="no vectors"):
        open_vectors(tmp_path / "a.npz" / "vectors")


def npy(header: bytes, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header


HEADERS = {
    "nothing": b"",
    "no dictionary": npy(b"[1,2]\n"),
    "a name": npy(b"abc\n"),
    "an open quote": npy(b"{'''1\n"),
    "a negative shape": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2)}\n"),
    "an enormous shape": npy(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 999999999)}\n"
    ),
    "a type of types": npy(b"{'descr': [[], {}], 'fortran_order': False, 'shape': (1, 2)}\n"),
    "nested": npy(b"{'descr': " + b"(" * 5_000 + b"\n"),
    "another version": npy(b"{}\n", b"\7\0"),
}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("inside", ["npy", "npz"])
def test_whatever_a_header_of_an_array_says_the_error_is_typed(
    tmp_path: Path, header: str, inside: str
) -> None:  # 56
    path = tmp_path / "vectors.npy"
    path.write_bytes(HEADERS[header] + b"\0" * 64)
    if inside == "npz":
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.write(path, "vectors.npy")
        path = tmp_path / "a.npz" / "vectors"
    with pytest.raises(CorpusError, match="vectors"):
        open_vectors(path)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_a_channel_take_their_share_of_memory(mode: str) -> None:  # 54
    buffer, side = io.BytesIO(), 1_000
    Image.fromarray(np.full((side, side), 51_000, np.uint16)).convert(mode).save(
        buffer, "PNG" if mode == "I;16" else "TIFF"
    )
    tracemalloc.start()
    try:
        decoded = images.decode_image(buffer.getvalue(), side * side)
        assert tracemalloc.get_traced_memory()[1] < 20 * side * side
    finally:
        tracemalloc.stop()
    assert decoded.getpixel((5, 5)) == (199, 199, 199)
