"""The images of one split of a data set: where each one's bytes are, its label, a digest of it all.

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

from react_pipeline.labelled import Unavailable, read_file
from react_pipeline.store import InputError, read_bounded

from .datasets import Dataset

Read = Callable[[int], bytes]
"""Maps the number of an image to the bytes of its file; an InputError if it is gone. Can be
pickled; safe in threads and after a fork.
"""


@dataclass(frozen=True)
class Files:
    """Reads image files below `root` by their numbers."""

    root: Path
    locations: tuple[str, ...]

    def __call__(self, position: int) -> bytes:
        """Return the bytes of a file.

        Raises:
            InputError: If it is gone or larger than `MAX_IMAGE_BYTES`.
        """
        return read_file(self.root / self.locations[position])

    def digests(self) -> list[str]:
        """Return the SHA-256 of each file."""
        return hash_images(self, len(self.locations))


@dataclass(frozen=True)
class Listing:
    """What a layout knows of a split: N images, C classes in its own order.

    Attributes:
        locations: What names each image, relative to the root.
        labels: Positions in `names` (N,), or zeros and ones (N, C) for a multilabel set.
        names: Class names on disk.
        where: The file or folder that messages about classes name.
    """

    locations: Sequence[str]
    labels: Any
    names: Sequence[str]
    where: Path
    read: Read


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split, with labels joined to the classes of the table's row by name.

    Attributes:
        locations: What names each image, relative to the root, in the order on disk, which is the
            order of a submission file.
        labels: int64 (N,) class ids; for a multilabel set uint8 (N, C), 1 where the image has the
            class.
    """

    entry: Dataset
    split: str
    locations: tuple[str, ...]
    labels: NDArray[np.int64] | NDArray[np.uint8]
    layout: str
    read: Read

    def __len__(self) -> int:
        return len(self.locations)

    def digests(self) -> list[str]:
        """Return the SHA-256 of each image file; an InputError if one is gone."""
        return hash_images(self.read, len(self))

    def digest(self, files: Sequence[str] = ()) -> str:
        """Return the SHA-256 over names, files and labels of the images, for lineage; errors as of
        `digests`, whose result `files` is if it is known.
        """
        names = self.entry.name, self.split, *self.entry.class_names
        digest = hashlib.sha256("\n".join(names).encode())
        digest.update(np.ascontiguousarray(self.labels).astype("<i8").tobytes())
        for location, sha256 in zip(self.locations, files or self.digests(), strict=True):
            digest.update(f"\n{location}\0{sha256}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def hash_images(read: Read, count: int) -> list[str]:
    """Return the SHA-256 of each of `count` images."""
    with ThreadPoolExecutor(4) as pool:
        files = pool.map(lambda position: hashlib.sha256(read(position)).hexdigest(), range(count))
        return list(files)


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
