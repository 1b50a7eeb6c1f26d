"""The images of one split of a data set: the picture, its label, and a digest of both.

A module for each layout returns a `Listing`; `readers` joins its classes with the table's.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.extensions.predict import Picture
from react_pipeline.labelled import Unavailable
from react_pipeline.store import CorpusError, InputError, read_bounded

from .datasets import Dataset


@dataclass(frozen=True)
class Listing:
    """Holds a split as a layout lists it: N pictures, C classes in its own order.

    Attributes:
        labels: Positions in `names` (N,), or zeros and ones (N, C) for a multilabel set.
        names: Class names on disk.
        where: The file or folder that messages about classes name.
    """

    layout: str
    pictures: Sequence[Picture]
    labels: Any
    names: Sequence[str]
    where: Path


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split, with labels joined to the classes of the table's row by name.

    Attributes:
        pictures: Named by their place below the root, in the order on disk, which is the order of a
            submission file.
        labels: int64 (N,) class ids; for a multilabel set uint8 (N, C), 1 where the image has the
            class.
    """

    entry: Dataset
    split: str
    pictures: tuple[Picture, ...]
    labels: NDArray[np.int64] | NDArray[np.uint8]
    layout: str

    def digest(self, files: Sequence[str]) -> str:
        """Return the SHA-256 over names, files and labels of the images, for lineage; `files` are
        their `digests`.
        """
        names = self.entry.name, self.split, *self.entry.class_names
        digest = hashlib.sha256("\n".join(names).encode())
        digest.update(np.ascontiguousarray(self.labels).astype("<i8").tobytes())
        for picture, sha256 in zip(self.pictures, files, strict=True):
            digest.update(f"\n{picture.name}\0{sha256}".encode())
        return digest.hexdigest()


def digests(pictures: Sequence[Picture]) -> list[str]:
    """Return the SHA-256 of each image file; an InputError if one is gone."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda one: hashlib.sha256(read_picture(one)).hexdigest(), pictures))


def digests_below(read: Callable[..., Any], root: Path, *place: Any) -> frozenset[str]:
    """Return the SHA-256 of the images that `read` finds below a root; none if they are not
    there.
    """
    try:
        return frozenset(digests(read(root, *place).pictures))
    except Unavailable:
        return frozenset()


def read_picture(picture: Picture) -> bytes:
    """Return the bytes of an image file; an InputError if it or its shard is gone, cut or too
    large.
    """
    try:
        return picture.read()
    except BadImage as error:
        raise InputError(f"{picture.name}: {error}; replace the file") from error
    except CorpusError as error:  # its text ends with advice for a corpus
        raise InputError(f"{picture.path}: cannot be read; copy the shard again") from error


def decode_picture(picture: Picture, max_pixels: int, *, is_lenient: bool = False) -> Image.Image:
    """Decode an image, RGB, as `corpus.decode_apart`; an InputError if there is none."""
    try:
        return decode_apart(read_picture(picture), max_pixels, is_lenient=is_lenient)
    except BadImage as error:
        raise InputError(
            f"{picture.name}: no usable image ({error}); fix or replace the file"
        ) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, stripped, without blank ones.

    Raises:
        Unavailable: If there is none.
        InputError: If it cannot be read.
    """
    try:
        text = read_bounded(path).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unavailable(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    return [line.strip() for line in text.split("\n") if line.strip()]
