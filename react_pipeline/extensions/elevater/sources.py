"""Sources: where the bytes of labelled images are.

Bytes are read from files and zip archives in place: names of members are keys of the archive's own
directory, nothing is extracted, no name becomes a path.
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from react_pipeline.store import MAX_IMAGE_BYTES, InputError, read_bounded, stamp_of


class ByteSource(Protocol):
    """Where the bytes of a split's images come from. Can be pickled; safe in threads and after a
    fork.
    """

    def read(self, position: int) -> bytes:
        """The bytes of an image file."""

    def checksum(self, position: int) -> tuple[int, int]:
        """Size in bytes and CRC-32 of the content, read in the cheapest way that sees the
        content.
        """


@dataclass(frozen=True)
class FileSource:
    """Files below `root`, and members of zip archives below it, by their locations."""

    root: Path
    locations: tuple[str, ...]

    def read(self, position: int) -> bytes:
        """The bytes of the file or member.

        Raises:
            InputError: If it is gone, damaged, encrypted or larger than `MAX_IMAGE_BYTES`.
        """
        archive, member = split_location(self.locations[position])
        if archive is None:
            return _read_file(self.root / member)
        where = f"{self.root / archive}@{member}"
        opened, info = _member(self.root / archive, member)
        if info.file_size > MAX_IMAGE_BYTES:
            raise InputError(f"{where}: {info.file_size:,} bytes are too many for an image")
        try:
            return opened.read(info)
        # Damaged or hostile members: bad CRC, cut data, unknown compression, encryption.
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            raise InputError(
                f"{where}: cannot be read ({error}); copy the archive again"
            ) from error

    def checksum(self, position: int) -> tuple[int, int]:
        """Size and CRC-32: of the archive's directory, or of the file's content."""
        archive, member = split_location(self.locations[position])
        if archive is None:
            data = _read_file(self.root / member)
            return len(data), zlib.crc32(data)
        _, info = _member(self.root / archive, member)
        return info.file_size, info.CRC


def split_location(location: str) -> tuple[str | None, str]:
    """Archive and member of `archive.zip@member`; None and the path of anything else."""
    head, mark, member = location.partition(".zip@")
    return (f"{head}.zip", member) if mark else (None, location)


def _member(archive: Path, name: str) -> tuple[zipfile.ZipFile, zipfile.ZipInfo]:
    opened = open_zip(archive)
    try:
        return opened, opened.getinfo(name)
    except KeyError as error:
        raise InputError(f"{archive}@{name}: no such member") from error


def is_inside(name: str) -> bool:
    """Whether a relative path stays below its root, by its text."""
    path = PurePosixPath(name)
    return (
        bool(name)
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in name
        and "\0" not in name
    )


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive, opened once in each process.

    Raises:
        InputError: If it is cut short or no zip archive.
    """
    try:
        return open_once(path, zipfile.ZipFile)
    # A hostile directory of members makes zipfile raise nearly anything.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError) as error:
        raise InputError(
            f"{path}: the zip archive is truncated or damaged ({error}); copy it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def open_once(path: Path, opener: Callable[[Path], Any]) -> Any:
    """A file kept open in this process, opened again after it was changed; `opener` is a function
    of a module.
    """
    return _opened(path, stamp_of(path.stat()), opener)


@lru_cache(maxsize=64)
def _opened(path: Path, _version: tuple[int, ...], opener: Callable[[Path], Any]) -> Any:
    # What makes way is not closed: another thread may still read it; it closes with its last
    # reader.
    return opener(path)


os.register_at_fork(after_in_child=_opened.cache_clear)  # a child shares the parent's file offsets


def _read_file(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_IMAGE_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
