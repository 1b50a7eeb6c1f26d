"""The one type of all readers: bytes in threads and processes, and the digest for lineage."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.elevater import png, write_elevater

from react_pipeline.extensions.elevater.readers import read_dataset

NAMES = ("cifar-10", "voc-2007-classification")
"""An image folder, and tar shards."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write_elevater(tmp_path / "copy", 2, only=NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_threads_and_processes_read_what_this_one_reads(copy: Path, name: str, method: str) -> None:
    images = read_dataset(copy, name, "test")
    alone = [images.read(position) for position in range(len(images))]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(images.read, list(range(len(images))) * 5)) == alone * 5
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        assert list(processes.map(images.read, range(len(images)))) == alone


@pytest.mark.parametrize("name", NAMES)
def test_the_digest_does_not_depend_on_where_the_root_is(
    copy: Path, tmp_path: Path, name: str
) -> None:
    first = read_dataset(copy, name, "test").digest()
    shutil.copytree(copy, tmp_path / "moved")
    assert read_dataset(tmp_path / "moved", name, "test").digest() == first
    assert pickle.loads(pickle.dumps(read_dataset(copy, name, "test"))).digest() == first  # noqa: S301


def test_the_digest_changes_with_a_label_and_with_a_pixel(copy: Path) -> None:
    digests = {read_dataset(copy, "cifar-10", "test").digest()}
    folder = copy / "cifar-10" / "test"
    (folder / "cat" / "0.png").write_bytes(png(0, "another"))
    digests.add(read_dataset(copy, "cifar-10", "test").digest())
    (folder / "cat" / "0.png").rename(folder / "deer" / "00.png")
    digests.add(read_dataset(copy, "cifar-10", "test").digest())
    assert len(digests) == 3
