"""Partial work of a build, which the next build of the same inputs finds after a kill.

Does not belong here: which scratch a build resumes from (`store`).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from react_pipeline.store.durable import (
    fsync,
    fsync_tree,
    link_or_copy,
    remove,
    sha256_of,
    write_atomically,
)
from react_pipeline.store.errors import StoreWriteError

KEPT = ".kept"
"""Suffix of the record beside what is kept: `Digests` as JSON."""

FILES, RECORD = "files", "record.json"
"""What `build` leaves in a folder."""

BEGUN = ".begun"
"""Made once for a scratch: where it is missing, the folder was removed, and whoever still wrote to
it made parts of it again.
"""

DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""Errors of the disk itself; others (a missing file, a refused connection) keep their own text."""

Digests = dict[str, dict[str, Any]]
"""SHA-256 and bytes of files, by their paths below a folder; of a single file by "."."""


@dataclass(frozen=True)
class Scratch:
    """What survives a kill: files and folders that are complete as soon as they have their names.

    Several files that belong together are one kept folder. Names that begin with a dot are
    temporary. A file is hashed once by a process, also if it gets further names by links.
    """

    folder: Path
    _hashed: dict[tuple[int, ...], dict[str, Any]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def keep(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Return the file or folder of this name, which `write` writes to a temporary path unless
        it is there. It never changes afterwards.
        """
        path = self.folder / name
        if not path.exists():
            part = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                write(part)
                fsync_tree(part)
                # First, so that a kill loses nothing that has its name.
                self._record(path, part)
                part.rename(path)
                fsync(path.parent)
            except OSError:
                if not path.is_dir():  # another process of this build kept the same folder
                    raise
                self._record(path, path)
            finally:
                remove(part)
        return path

    def _record(self, path: Path, written: Path) -> None:
        digests = json.dumps(self.digests(written))
        write_atomically(path.with_name(f".{path.name}{KEPT}"), digests)

    def build(self, name: str, target: Path, write: Callable[[Path], Any]) -> Any:
        """Do a part of a build once: `write` fills a kept folder and returns a record (JSON); the
        files are linked into `target`, and the record is returned.
        """

        def fill(folder: Path) -> None:
            (folder / FILES).mkdir(parents=True)
            record = json.dumps(write(folder / FILES))
            (folder / RECORD).write_text(record, encoding="utf-8")

        kept = self.keep(name, fill)
        if (kept / FILES).exists():  # `begin` links files, and makes no folder for none
            link_or_copy(kept / FILES, target)
        return json.loads((kept / RECORD).read_text(encoding="utf-8"))

    def digests(self, path: Path) -> Digests:
        """Return the SHA-256 and bytes of a file, or of each file below a folder."""
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return {
            file.relative_to(path).as_posix(): self._described(file)
            for file in files
            if not file.is_dir()
        }

    def _described(self, file: Path) -> dict[str, Any]:
        stat = file.stat()
        stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if stamp not in self._hashed:
            self._hashed[stamp] = {"sha256": sha256_of(file), "bytes": stat.st_size}
        return self._hashed[stamp]

    def begin(self, earlier: Scratch | None = None) -> None:
        """Make the folder, with links to what an earlier scratch keeps, except what is no longer as
        it was written.
        """
        self.folder.mkdir(parents=True)
        (self.folder / BEGUN).touch()
        earlier = earlier or self
        for record in earlier.records():
            source = record.with_name(record.name[1 : -len(KEPT)])
            place = self.folder / record.parent.relative_to(earlier.folder)
            target = place / source.name
            try:
                digests: Digests = json.loads(record.read_bytes())
                if all(self._described(source / file) == digests[file] for file in digests):
                    for file in digests:
                        link_or_copy(source / file, target / file)
                    link_or_copy(record, place / record.name)
            except (OSError, ValueError, TypeError, RecursionError):  # it was removed, or damaged
                remove(target)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Say which disk refused a write, or that this scratch was removed."""
        try:
            yield
        except Exception as error:  # torch and others raise their own
            if self.is_removed:
                raise removed(self.folder) from error
            if not isinstance(error, OSError) or error.errno not in DISK_FAULTS:
                raise
            # What was half written is removed by now.
            free = shutil.disk_usage(self.folder).free
            raise StoreWriteError(
                f"{error.filename or self.folder}: {error.strerror or error}; this artifact needs "
                f"more than the {free:,} bytes that are free on that disk. Nothing was published; "
                "free space (react-pipeline prune) and run again"
            ) from error

    @property
    def progress(self) -> tuple[int, int]:
        """Time at which something was kept last, in nanoseconds, and how much is kept: a scratch
        that was killed as it began has the times of the one before, and less.
        """
        times = [0]
        for record in self.records():
            with suppress(FileNotFoundError):
                times.append(record.stat().st_mtime_ns)
        return max(times), len(times)

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed what the process of this scratch works with."""
        return not (self.folder / BEGUN).exists()

    def records(self) -> list[Path]:
        """Return the records of what this scratch, and those in folders of it, keep."""
        # Unlike `rglob`, `walk` continues where a process of this scratch removes a temporary one.
        walk = os.walk(self.folder)
        paths = [Path(folder, name) for folder, _, names in walk for name in names]
        return sorted(path for path in paths if path.suffix == KEPT and path.name[0] == ".")


def removed(address: object) -> StoreWriteError:
    """Return the error of a build whose files somebody removed."""
    return StoreWriteError(f"{address}: removed before it was published; run again")
