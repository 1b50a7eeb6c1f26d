"""FAULTS 11, 12, 13, 31 for the benchmark's data: missing is `unavailable`, wrong is refused with
file and fault.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from support.elevater import png, write_elevater

from react_pipeline.corpus.images import decode_image
from react_pipeline.extensions.elevater.check import check_splits
from react_pipeline.extensions.elevater.datasets import DATASETS
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.labelled.kind import Unavailable
from react_pipeline.store.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_elevater(tmp_path / "copy", 2, only=["cifar-10", "voc-2007-classification"])


def refusal(root: Path, name: str = "cifar-10") -> str:
    with pytest.raises(InputError) as caught:
        read_dataset(root, name, "test")
    assert not isinstance(caught.value, Unavailable), "wrong data must not pass for missing data"
    return str(caught.value)


def first_image(root: Path) -> Path:
    return root / "cifar-10" / "test" / "airplane" / "0.png"


# 31: labels and classes


def test_class_names_that_are_no_utf8_are_refused(root: Path) -> None:
    names = root / "voc-2007-classification" / "classnames.txt"
    names.write_bytes("Flugzeug\nKäfer\n".encode("latin-1"))
    assert "classnames.txt: cannot be read as UTF-8" in refusal(root, "voc-2007-classification")


def test_missing_data_is_unavailable_and_never_empty(tmp_path: Path) -> None:
    for name in DATASETS:
        with pytest.raises(Unavailable, match="Get it from"):
            read_dataset(tmp_path, name, "test")


# 11, 12, 13: images


def bomb() -> bytes:
    """A small file that says to have 60,000 x 60,000 pixels."""
    data = bytearray(png(0, "x"))
    # Width and height of a PNG's header; its checksum follows.
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not_an_image"),
        (png(0, "x")[:30], "not_an_image|corrupt"),
        (bomb(), "too_many_pixels"),
    ],
)
def test_the_check_meets_files_that_are_no_images(root: Path, data: bytes, reason: str) -> None:
    first_image(root).write_bytes(data)
    reports = {row[:2]: row[-2:] for row in check_splits(root)}
    states = {name: reports[name, "test"][0] for name in ("voc-2007-classification", "mnist")}
    assert states == {"voc-2007-classification": "partial", "mnist": "unavailable"}
    state, problem = reports["cifar-10", "test"]
    assert state == "wrong" and "cifar-10/test/airplane/0.png: no usable image" in problem
    assert any(word in problem for word in reason.split("|"))


def test_an_image_that_takes_gigabytes_is_not_read(root: Path) -> None:
    images = read_dataset(root, "cifar-10", "test")
    with first_image(root).open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(InputError, match=r"airplane/0\.png"):
        images.read(0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_images_of_every_colour_mode_come_out_as_rgb(root: Path, mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, format="JPEG" if mode == "CMYK" else "PNG")
    first_image(root).write_bytes(buffer.getvalue())
    images = read_dataset(root, "cifar-10", "test")
    assert decode_image(images.read(0), 10_000).mode == "RGB"
