"""Pictures without labels: what a SOURCE on the command line means, and reading the bytes of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from react_pipeline.corpus import BadImage
from react_pipeline.store import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

LedgerRow = tuple[str, str, str]
"""A picture that gives no prediction: its name, a short reason for counting, and what exactly."""


@dataclass(frozen=True)
class Picture:
    """One picture: its name, and the file that holds it."""

    name: str
    path: Path

    def read(self) -> bytes:
        """The bytes of the image file.

        Raises:
            BadImage: With reason `unreadable`.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise BadImage("unreadable", str(error.strerror)) from error


def find_pictures(source: str) -> tuple[list[Picture], list[LedgerRow]]:
    """The pictures of a folder in a stable order, and what of it cannot be one.

    Raises:
        InputError: If there are none.
    """
    found = [Path(folder, name) for folder, _, names in os.walk(Path(source).expanduser()) for name in names]
    pictures = [Picture(str(path), path) for path in sorted(found) if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise InputError(f"{source}: holds no picture; give a folder of image files")
    return pictures, []


def identity_of(pictures: Sequence[Picture]) -> str:
    """SHA-256 over names, sizes and times of change: equal where the same pictures are meant."""
    stats = [(picture.name, picture.path.stat()) for picture in pictures]
    rows = "\n".join(f"{name}\0{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.sha256(rows.encode()).hexdigest()
