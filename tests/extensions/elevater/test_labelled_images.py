"""The one type of all readers: bytes from archives in threads and processes, and the digest for
lineage.
"""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.elevater import edit_registry, folder_of, png, write_elevater

from react_pipeline.extensions.elevater.images import LabelledImages
from react_pipeline.extensions.elevater.readers import read_dataset


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write_elevater(tmp_path / "copy", 4, only=["cifar-10"])


def test_many_threads_read_what_one_reads(copy: Path) -> None:
    images = read_dataset(copy, "cifar-10", "test")
    alone = [images.read(position) for position in range(len(images))]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.read, list(range(len(images))) * 5)) == alone * 5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_what_this_one_reads(copy: Path, method: str) -> None:
    images = read_dataset(copy, "cifar-10", "test")
    # Read first, so that a forked child inherits an archive that is open.
    alone = [images.read(position) for position in range(len(images))]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(images.read, range(len(images)))) == alone
    assert images.read(0) == alone[0]


def test_the_digest_does_not_depend_on_where_the_root_is(copy: Path, tmp_path: Path) -> None:
    first = read_dataset(copy, "cifar-10", "test").digest()
    shutil.copytree(copy, tmp_path / "moved")
    assert read_dataset(tmp_path / "moved", "cifar-10", "test").digest() == first
    assert pickle.loads(pickle.dumps(read_dataset(copy, "cifar-10", "test"))).digest() == first  # noqa: S301


def test_the_digest_changes_with_a_label_and_with_a_pixel(copy: Path) -> None:
    digests = {read_dataset(copy, "cifar-10", "test").digest()}
    index = folder_of(copy, "cifar-10") / "test.txt"
    text = index.read_text()
    index.write_text(text.replace("/0.png 3\n", "/0.png 4\n"))
    digests.add(read_dataset(copy, "cifar-10", "test").digest())
    index.write_text(text)
    archive = folder_of(copy, "cifar-10") / "val.zip"
    with zipfile.ZipFile(archive) as opened:
        members = [(name, opened.read(name)) for name in opened.namelist()]
    with zipfile.ZipFile(archive, "w") as opened:
        for name, data in members:
            opened.writestr(name, png(0, "another") if name == members[0][0] else data)
    digests.add(read_dataset(copy, "cifar-10", "test").digest())
    assert len(digests) == 3


def test_the_digest_of_plain_files_sees_their_content(copy: Path) -> None:
    folder = folder_of(copy, "cifar-10")
    with zipfile.ZipFile(folder / "val.zip") as opened:
        opened.extractall(folder)
    (folder / "test.txt").write_text((folder / "test.txt").read_text().replace("val.zip@", ""))

    def digest() -> str:
        return read_dataset(copy, "cifar-10", "test").digest()

    first = digest()
    path = folder / "test images" / "0" / "0.png"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert digest() != first


def test_an_archive_that_was_replaced_is_opened_again(copy: Path) -> None:
    images: LabelledImages = read_dataset(copy, "cifar-10", "test")
    before = images.read(0)
    archive = folder_of(copy, "cifar-10") / "val.zip"
    archive.unlink()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(images.locations[0].partition("@")[2], b"something else")
    assert before != images.read(0) == b"something else"


def test_whether_a_split_has_its_official_size_is_known(copy: Path) -> None:
    images = read_dataset(copy, "cifar-10", "test")
    assert images.expected == 10_000
    assert len(images) != images.expected
    edit_registry(copy, "cifar-10", test={"index_path": "test.txt"})
    index = folder_of(copy, "cifar-10") / "test.txt"
    index.write_text(index.read_text() * 250)
    whole = read_dataset(copy, "cifar-10", "test")
    assert len(whole) == whole.expected
    assert any("9960 images are listed again" in note for note in whole.notes)


def test_the_digest_changes_with_the_class_order_on_disk(
    copy: Path,
) -> None:
    before = read_dataset(copy, "cifar-10", "test")
    folder = folder_of(copy, "cifar-10")
    names = (folder / "labels.txt").read_text().split()
    (folder / "labels.txt").write_text("\n".join(names[::-1]) + "\n")
    rows = [line.rpartition(" ") for line in (folder / "test.txt").read_text().splitlines()]
    (folder / "test.txt").write_text(
        "".join(f"{image} {9 - int(label)}\n" for image, _, label in rows)
    )
    after = read_dataset(copy, "cifar-10", "test")
    assert after.labels.tolist() == before.labels.tolist() and after.order == before.order[::-1]
    assert after.digest() != before.digest()
