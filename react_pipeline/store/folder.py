"""A store's objects in a folder, also one that several hosts mount.

Belongs here: small objects that are written whole, files of attempts, listings. Does not belong
here: what they mean (`store`), or how a bucket keeps the same (`bucket`). Paths of objects have
slashes; one that is missing is a FileNotFoundError.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from react_pipeline.store.durable import fsync, remove, sha256_of, stamp_of

MANIFEST = "manifest.json"
CURRENT = "current"
USED = "used"
HEADS = frozenset({MANIFEST, CURRENT, USED})
"""Names of the small objects that say what there is."""
TEMPORARY = ".temporary"
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


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
    is_local: ClassVar[bool] = True

    def address(self, path: str) -> str:
        """Where an object is."""
        return f"{self.home}/{path}"

    def look(self) -> Folder:
        """The same for whoever asks about one moment."""
        return self

    def require_usable(self) -> None:
        """Do nothing: a folder that is not shows it at once."""

    def version(self, path: str) -> str:
        """Changes when an object is written; "" where only reading it says that."""
        return str(stamp_of(os.stat(self.address(path))))  # noqa: PTH116 - faster

    def read(self, path: str) -> bytes:
        """Return a small object."""
        return (self.home / path).read_bytes()

    def put(self, path: str, data: bytes) -> None:
        """Write an object; a reader finds the old one or the new one."""
        self._write(path, data, os.replace)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object unless there is one; returns whether it is this one now, also if the
        answer to an earlier try was lost.
        """
        try:
            self._write(path, data, _link)
        except FileExistsError:
            with suppress(FileNotFoundError):
                return self.read(path) == data
            return False
        return True

    def _write(self, path: str, data: bytes, name: Callable[[Path, Path], None]) -> None:
        temporary = self._temporary()
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
        self._fsync_to_home(target.parent)

    def _temporary(self) -> Path:
        (self.home / TEMPORARY).mkdir(parents=True, exist_ok=True)
        return self.home / TEMPORARY / secrets.token_hex(8)

    def _fsync_to_home(self, folder: Path) -> None:
        while folder.is_relative_to(self.home):
            with suppress(FileNotFoundError):  # pruned meanwhile
                fsync(folder)
            folder = folder.parent

    def remove(self, path: str, data: bytes) -> bool:
        """Remove an object if it still is this one; returns whether this call did."""
        moved = self._temporary()
        try:
            if self.read(path) != data:
                return False
            (self.home / path).rename(moved)
        except FileNotFoundError:
            return False
        is_same = moved.read_bytes() == data
        if not is_same:  # another was written between the two calls
            with suppress(FileExistsError):
                _link(moved, self.home / path)
        moved.unlink()
        self._fsync_to_home((self.home / path).parent)
        return is_same

    def delete(self, *paths: str) -> None:
        """Remove those of these objects that are there."""
        for path in paths:
            (self.home / path).unlink(missing_ok=True)

    def discard(self, prefix: str) -> None:
        """Remove all files of an attempt."""
        gone = self._temporary()
        with suppress(FileNotFoundError):
            (self.home / prefix).rename(gone)
            shutil.rmtree(gone)
        with suppress(OSError):  # not empty
            (self.home / prefix).parent.rmdir()

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All files of an attempt."""
        folders = [str(self.home / prefix)]
        while folders:
            for entry in _scan(folders.pop()):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield from self._entry(entry)

    def heads(self, prefix: str = "", name: str = "") -> Iterator[Entry]:
        """The `HEADS` below a prefix, and the folder of each attempt as `<prefix of it>/`; with a
        name at least those of this name, of which none is below another.
        """
        folders = [str(self.home / prefix)]
        while folders:
            entries = _scan(folders.pop())
            named = [entry for entry in entries if entry.name == name and entry.is_file()]
            for entry in named or entries:
                if entry.name[0] == "_":
                    yield from self._entry(entry, "/")
                elif entry.is_dir(follow_symlinks=False):
                    if entry.name[0] != ".":
                        folders.append(entry.path)
                elif entry.name in HEADS:
                    yield from self._entry(entry)

    def _entry(self, entry: os.DirEntry[str], end: str = "") -> Iterator[Entry]:
        with suppress(FileNotFoundError):
            stat = entry.stat()
            path = entry.path[len(f"{self.home}/") :] + end
            yield Entry(path, stat.st_size, stat.st_mtime)

    def finish(self, prefix: str, built: Path, names: Collection[str]) -> None:
        """Bring the files of an attempt, which are on this machine's disk, to where all see
        them.
        """
        self._place(built, self.home / prefix, os.rename)

    def fetch(self, prefix: str, names: Iterable[str], *, anew: bool) -> Path:
        """The folder of an attempt on this machine, in which these files are; fetched again if
        `anew`.
        """
        return self.home / prefix

    def sha256_of(self, prefix: str, name: str) -> str:
        """SHA-256 of a file of an attempt, read where it is published."""
        return sha256_of(self.home / prefix / name)

    def sweep(self, seconds: float) -> None:
        """Remove what writes that were killed left more than so many seconds ago."""
        sweep(self.home / TEMPORARY, seconds)


def sweep(folder: Path, seconds: float) -> None:
    """Remove what was not written to within so many seconds from a folder of this machine."""
    for path in folder.glob("*"):
        if written_at(path) < time.time() - seconds:
            with suppress(OSError):
                remove(path)


def written_at(path: Path) -> float:
    """Time at which anything in a file or a folder was written last; 0 if it is gone."""
    with suppress(OSError):
        return max(below.lstat().st_mtime for below in [path, *path.rglob("*")])
    return 0


def _scan(folder: str) -> list[os.DirEntry[str]]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with target.open("xb") as file:
            file.write(source.read_bytes())
        fsync(target)
