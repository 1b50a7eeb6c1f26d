"""FAULTS 43, 47, 48, 56: whatever is in a file, reading it gives a value or a typed error, soon and
in little memory.

Each reader gets files that hypothesis makes of a good one: cut, with bytes changed, doubled or
inserted, or of nothing but noise. What was ever found is an explicit example. `make
test-operations` runs them; `max_examples` is the budget.
"""

from __future__ import annotations

import io
import resource
import tarfile
import tempfile
import time
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
from safetensors.torch import save

from react_pipeline.clip import read_weights
from react_pipeline.corpus import index_shard
from react_pipeline.extensions.elevater.image_text import read_karpathy
from react_pipeline.extensions.sources.kinds import UrlTables
from react_pipeline.extensions.sources.url_tables import read_rows
from react_pipeline.extensions.sources.vector_files import open_vectors
from react_pipeline.settings import load_domain
from react_pipeline.store import ReactError, Store
from react_pipeline.store.artifacts import parse_manifest

pytestmark = [pytest.mark.slow, pytest.mark.operations]

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


def read_table(path: Path) -> None:
    list(read_rows([path], UrlTables(urls=[str(path)]), Counter()))


READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "tar": ("a.tar", tar(), index_shard),
    "npy": (
        "a.npy",
        written(lambda file: np.save(file, np.eye(4, dtype=np.float16))),
        open_vectors,
    ),
    "parquet": ("a.parquet", written(lambda file: pq.write_table(TABLE, file)), read_table),
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
