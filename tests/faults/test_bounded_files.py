"""FAULTS 43, 47, 48, 54 to 56, 58: small or special files from outside that would take gigabytes or
minutes, or be waited for without end; headers that raise anything; JSON nested too deeply.

The last test gives each reader files that hypothesis makes of a good one: cut, with bytes changed,
doubled or inserted, or of nothing but noise. What was ever found is an explicit example. `make
test-operations` runs it; `max_examples` is the budget.
"""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import struct
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from react_pipeline.clip import CONFIG_FILE, read_config, read_weights
from react_pipeline.clip.weights import at_most
from react_pipeline.corpus import Skipped, images, index_shard, whole_table
from react_pipeline.extensions.elevater import read_lines
from react_pipeline.extensions.elevater.image_text import read_karpathy
from react_pipeline.extensions.predict.run_folder import RUN_FILE, _record
from react_pipeline.extensions.sources.image_files import _read_table
from react_pipeline.extensions.sources.kinds import Images, UrlTables
from react_pipeline.extensions.sources.url_tables import read_rows
from react_pipeline.extensions.sources.vector_files import open_vectors
from react_pipeline.labelled import read_file
from react_pipeline.project.template import LOCK_FILE, ui_record
from react_pipeline.settings import load_domain
from react_pipeline.settings.files import read_yaml
from react_pipeline.store import (
    CorpusError,
    CorruptArtifact,
    InputError,
    ReactError,
    Store,
    bounded,
    parse_json,
    read_bounded,
)
from react_pipeline.store.artifacts import parse_manifest
from react_pipeline.use import RECORD_FILE
from react_pipeline.use.classifier import load_exported

Reader = Callable[[Path], Any]


def read_url_table(path: Path) -> None:
    list(read_rows([path], UrlTables(urls=[str(path)]), Counter()))


def test_a_fault_of_the_machine_is_no_damage_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(OSError) as caught, whole_table(path):
        raise OSError(errno.EMFILE, "Too many open files")
    assert caught.value.errno == errno.EMFILE
    with pytest.raises(MemoryError), whole_table(path):
        raise pa.ArrowMemoryError("malloc of size 64 failed")


FIFOS: dict[str, tuple[str, Reader]] = {
    "configuration of a checkpoint": (
        "open_clip_config.json",
        lambda path: read_config(path.parent),
    ),
    "weights": ("a.safetensors", read_weights),
    "shard": ("a.tar", index_shard),
    "table": ("a.parquet", read_url_table),
    "list": ("a.txt", read_lines),
    "image": ("a.jpg", read_file),
    "settings": ("a.yaml", read_yaml),
}


@pytest.mark.parametrize("kind", FIFOS)
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    name, read = FIFOS[kind]
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="regular file"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_file, read_lines, read_bounded])
def test_a_sparse_file_is_not_read(tmp_path: Path, read: Reader) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(8 << 30)
    tracemalloc.start()
    try:
        with pytest.raises((InputError, OSError), match="more than"):
            read(tmp_path / "a.jpg")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_json_is_measured_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2]}') == {"a": [1, 2]}
    monkeypatch.setattr(bounded, "MAX_JSON_BYTES", 100_000)
    with pytest.raises(ValueError, match="memory"):
        parse_json(b"[" + b"{}," * 1_000 + b"{}]")
    with pytest.raises(ValueError, match="deep"):
        parse_json(b"[" * 1_100)


SIZES = [
    ("vision_cfg", "layers", 10**9),
    ("vision_cfg", "patch_size", 1),
    ("text_cfg", "context_length", 10**6),
    ("text_cfg", "vocab_size", "many"),
]


@pytest.mark.parametrize(("tower", "field", "value"), SIZES)
def test_a_configuration_of_enormous_sizes_is_refused(
    tmp_path: Path, tower: str, field: str, value: Any
) -> None:
    model_cfg: dict[str, Any] = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
    model_cfg[tower] = {field: value}
    config = {"model_cfg": model_cfg, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"{tower}.{field}"):
        read_config(tmp_path)


@pytest.mark.parametrize("layers", [1, 10**9])
def test_a_model_is_built_no_larger_than_its_weights(layers: int) -> None:
    side = 20_000 if layers == 1 else 1
    with pytest.raises(ValueError, match="tensors"), at_most({"weight": torch.ones(3)}):
        nn.Sequential(*(nn.Linear(side, side) for _ in range(layers)))
    nn.Linear(100, 100)


NESTED = "[" * 100_000 + "\n"

OURS: dict[str, Reader] = {LOCK_FILE: ui_record, RUN_FILE: _record}


@pytest.mark.parametrize("file", OURS)
def test_what_is_ours_counts_as_not_written(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text(NESTED)
    assert OURS[file](tmp_path) == {}


def test_an_export_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text(NESTED)
    with pytest.raises(CorruptArtifact, match="export"):
        load_exported(tmp_path)


def test_numbers_that_no_type_holds_are_typed_errors(tmp_path: Path) -> None:
    towers = '"vision_cfg": {}, "text_cfg": {}'
    (tmp_path / CONFIG_FILE).write_text(
        f'{{"model_cfg": {{"embed_dim": 1e999, {towers}}}, "preprocess_cfg": {{}}}}'
    )
    with pytest.raises(InputError, match="open_clip"):
        read_config(tmp_path)


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


SECONDS_A_CASE = 60.0
MAX_MEMORY_BYTES = 1 << 30
"""More than the process took when it began."""


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a.png", "a.txt", f"{'long' * 60}.json"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    return buffer.getvalue()


def written(write: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


TABLE = pa.table({"url": ["http://a/b.jpg"] * 3, "caption": ["a", "b", "b"]})


READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "tar": ("a.tar", tar(), index_shard),
    "npy": (
        "a.npy",
        written(lambda file: np.save(file, np.eye(4, dtype=np.float16))),
        open_vectors,
    ),
    "parquet": ("a.parquet", written(lambda file: pq.write_table(TABLE, file)), read_url_table),
    "yaml": (
        "a.yaml",
        b"classes: [cat, {name: dog, synonyms: [hound]}]\ntemplates: ['a {}']\n",
        load_domain,
    ),
    "safetensors": ("a.safetensors", save({"weight": torch.ones(2, 2)}), read_weights),
    "torch": (
        "a.pt",
        written(lambda file: torch.save({"weight": torch.ones(2, 2)}, file)),
        read_weights,
    ),
    "listing": (
        "a.json",
        b'{"images": [{"filename": "a", "split": "test", "sentences": []}]}',
        read_karpathy,
    ),
    "manifest": (
        "manifest.json",
        b'{"format": 3, "files": {}}',
        lambda path: parse_manifest(path.read_bytes(), "thing/all/0"),
    ),
    "store": ("store.json", b'{"format": 3}', lambda path: Store(path.parent)),
}
EXAMPLES = {
    "tar": [b"1" * 60_000, tar()[:700]],
    "npy": [b"\x80\x04N."],
    "yaml": [b"classes: 2001-99-99"],
    "listing": [b"[" * 100_000, b"1" * 5_000],
    "manifest": [b"[" * 100_000, b'"x"', b"1" * 5_000],
}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file made of a good one."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 64)))
        many = st.sampled_from(
            [b"\0" * 512, b"9" * 40, b"[" * 2_000, b"\xff" * 8, data[start:end] * 3]
        )
        data[start:end] = draw(st.binary(max_size=16) | many)
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@pytest.mark.slow
@pytest.mark.operations
@pytest.mark.parametrize("name", READERS)
def test_any_bytes_are_read_or_refused_with_typed_error_in_time(name: str) -> None:
    file, whole, read = READERS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path, began = Path(folder, file), time.monotonic()
            path.write_bytes(data)
            with suppress(ReactError):
                read(path)
            assert time.monotonic() - began < SECONDS_A_CASE

    for data in (whole, *EXAMPLES.get(name, [])):
        check(data)
    budget = hypothesis.settings(max_examples=1_000, deadline=None, derandomize=True, database=None)
    budget(hypothesis.given(damaged(whole) | st.binary(max_size=300))(check))()
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MAX_MEMORY_BYTES
