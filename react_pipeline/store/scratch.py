"""Partial work of a build, which the next build of the same inputs finds after a kill.

Does not belong here: which scratch a build resumes from (`store`).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from react_pipeline.store.durable import append, fsync, fsync_tree, link_or_copy, remove, sha256_of

KEPT = ".kept"
"""Log of a scratch: lines with the names and the digests of what it keeps."""

FILES, RECORD = "files", "record.json"
"""What `build` leaves in a folder."""

BEGUN = ".begun"
"""Made once for a scratch: where it is missing, the folder was removed, and whoever still wrote to
it made parts of it again.
"""

Digests = dict[str, dict[str, Any]]
"""SHA-256 and bytes of files, by their paths below a folder; of a single file by "."."""

Kept = dict[str, Digests]
"""Digests by name."""


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
                self._log({name: self.digests(part)})
                part.rename(path)
                fsync(path.parent)
            except OSError:
                if not path.is_dir():  # another process of this build kept the same folder
                    raise
                self._log({name: self.digests(path)})
            finally:
                remove(part)
        return path

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
            if not file.is_dir() and file.name != KEPT
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
        kept: Kept = {}
        earlier = earlier or self
        for name, digests in earlier._kept().items():
            source, target = earlier.folder / name, self.folder / name
            try:
                if any(self._described(source / file) != digests[file] for file in digests):
                    continue
                for file in digests:
                    link_or_copy(source / file, target / file)
                kept[name] = digests
            except OSError:  # it was removed
                remove(target)
        if kept:  # at last and at once, or a kill here would leave one that is newer and has less
            self._log(kept)

    @property
    def kept_at(self) -> int:
        """Time at which something was kept last, in nanoseconds; 0 if nothing was."""
        latest = 0
        for log in self._logs():
            with suppress(FileNotFoundError):
                latest = max(latest, log.stat().st_mtime_ns)
        return latest

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed what the process of this scratch works with."""
        return not (self.folder / BEGUN).exists()

    def _kept(self) -> Kept:
        """Return what this scratch, and those in folders of it, keep."""
        kept: Kept = {}
        for log in self._logs():
            place = log.parent.relative_to(self.folder)
            # The last line may be torn.
            with suppress(OSError, ValueError, AttributeError, RecursionError):
                for line in log.read_bytes().splitlines():
                    for name, digests in json.loads(line).items():
                        kept[(place / name).as_posix()] = digests
        return kept

    def _logs(self) -> list[Path]:
        # Unlike `rglob`, `walk` continues where a process of this scratch removes a temporary one.
        walk = os.walk(self.folder)
        return sorted(Path(folder, KEPT) for folder, _, files in walk if KEPT in files)

    def _log(self, kept: Kept) -> None:
        with (self.folder / KEPT).open("ab") as log:
            append(log.fileno(), json.dumps(kept).encode() + b"\n")
