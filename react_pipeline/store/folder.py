"""A store's objects in a folder, also one that several hosts mount.

Belongs here: small objects that are written whole, files of attempts, listings. Does not belong
here: what they mean (`store`), or how a bucket keeps the same (`bucket`). Paths of objects have
slashes; one that is missing is a FileNotFoundError.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from react_pipeline.store.durable import fsync, link_or_copy, remove, sha256_of

MANIFEST = "manifest.json"
CURRENT = "current"
SCRATCH, TEMPORARY = ".scratch", ".temporary"
COPIES = ".copies"
"""Folder of this machine with copies of a bucket's attempts, whose time is that of their last
opening.
"""


class Entry(NamedTuple):
    """An object; `time` is by the clock of its disk or server, `version` changes when a bucket's
    object is written.
    """

    path: str
    size: int
    time: float
    version: str = ""


@dataclass(frozen=True)
class Folder:
    """A folder; `home` is also where this machine keeps what is no part of the store."""

    home: Path

    def address(self, path: str) -> str:
        """Return where an object is."""
        return f"{self.home}/{path}"

    def look(self) -> Folder:
        """Return the same for whoever asks about one moment."""
        return self

    def require_usable(self) -> None:
        """Do nothing: a folder that is not shows it at once."""

    def read(self, path: str) -> bytes:
        """Return a small object."""
        with open(self.address(path), "rb") as file:  # noqa: PTH123 - faster, for thousands of them
            return file.read()

    def put(self, path: str, data: bytes) -> None:
        """Write an object; a reader finds the old one or the new one."""
        self._write(path, data, os.replace)

    def create(self, path: str, data: bytes) -> None:
        """Write an object unless there is one."""
        with suppress(FileExistsError):
            self._write(path, data, link_or_copy)

    def _write(self, path: str, data: bytes, name: Callable[[Path, Path], None]) -> None:
        temporary = temporary_in(self.home)
        try:
            temporary.write_bytes(data)
            fsync(temporary)
            self._place(temporary, self.home / path, name)
        finally:
            temporary.unlink(missing_ok=True)

    def _place(self, source: Path, target: Path, name: Callable[[Path, Path], None]) -> None:
        """Give what is on the disk its name, though `discard` removes folders that are empty."""
        while True:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                name(source, target)
                break
            except FileNotFoundError:
                if not source.exists():
                    raise
        for folder in target.parents[: len(target.relative_to(self.home).parts)]:
            with suppress(FileNotFoundError):  # pruned meanwhile
                fsync(folder)

    def touch(self, path: str) -> None:
        """Let an object that is there be written now."""
        with suppress(FileNotFoundError):
            os.utime(self.home / path)

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            (self.home / path).unlink()
            fsync((self.home / path).parent)

    def discard(self, prefix: str) -> None:
        """Remove all files of an attempt."""
        throw_away(self.home / prefix, self.home)
        with suppress(OSError):  # not empty
            (self.home / prefix).parent.rmdir()

    def entries(self, prefix: str = "", until: str = "") -> Iterator[Entry]:
        """Yield all objects below a prefix, except, in a folder, those below names with a dot.

        Args:
            until: A name. In a folder nothing below one that has an object of this name is listed,
                and of each attempt only its own folder: a store has many more files.
        """
        for folder, below, files in os.walk(self.home / prefix):
            attempts = [f"{name}/" for name in below if until and name[0] == "_"]
            left_out = "._" if until else "."
            below[:] = [] if until in files else [name for name in below if name[0] not in left_out]
            for name in [*files, *attempts]:
                with suppress(FileNotFoundError):
                    stat = os.stat(f"{folder}/{name}")  # noqa: PTH116 - faster
                    path = f"{folder}/{name}".removeprefix(f"{self.home}/")
                    yield Entry(path, stat.st_size, stat.st_mtime)

    def finish(self, prefix: str, built: Path, names: Collection[str]) -> None:
        """Bring the files of an attempt, which are on this machine's disk, to where all see
        them.
        """
        self._place(built, self.home / prefix, os.rename)

    def fetch(self, prefix: str, names: Iterable[str], *, anew: bool) -> Path:
        """Return the folder of an attempt on this machine, in which these files are; fetched again
        if `anew`.
        """
        return self.home / prefix

    def sha256_of(self, path: str) -> str:
        """Return the SHA-256 of an object, read where it is."""
        return sha256_of(self.home / path)


def temporary_in(home: Path) -> Path:
    """Return a path of its own for what is not finished."""
    (home / TEMPORARY).mkdir(parents=True, exist_ok=True)
    return home / TEMPORARY / secrets.token_hex(8)


def throw_away(path: Path, home: Path) -> None:
    """Remove a file or folder of this machine; a process that uses it finds all it wrote, or
    none.
    """
    gone = temporary_in(home)
    with suppress(FileNotFoundError):
        path.rename(gone)
    with suppress(OSError):  # what is left is swept later
        remove(gone)


def written_at(path: Path) -> float:
    """Time at which anything in a file or a folder was written last; 0 if it is gone."""
    below = (Path(folder, name) for folder, *names in os.walk(path) for name in sum(names, []))
    times = [0.0]
    for each in (path, *below):
        with suppress(OSError):  # it is gone, and others are not
            times.append(each.lstat().st_mtime)
    return max(times)
