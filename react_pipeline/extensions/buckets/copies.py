"""Local copies of artifacts in object storage: fetched file by file, verified, evicted when full.

Belongs here: the folder of copies. Does not belong here: what is published (`bucket_store`).

Layout, where an attempt is the build whose bytes an artifact has::

    <copies>/<attempt>/<stage>/<key>/<fingerprint>/   the files that were asked for
    <copies>/<attempt>/.verified/                     how each looked when it was verified
    <copies>/.users/                                  one file a process: the attempts it opened
    <copies>/.added                                  bytes of all processes since the last measure

A copy that a living process opened is never evicted, so that its paths stay valid.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from react_pipeline.extensions.buckets.bucket import each
from react_pipeline.store import (
    CorruptArtifact,
    StoreWriteError,
    lock,
    locked,
    release,
    rename_synced,
    sha256_of,
    stamp_of,
)

if TYPE_CHECKING:
    from react_pipeline.extensions.buckets.bucket_artifact import BucketArtifact

_users: dict[Path, TextIO] = {}
_opened: set[tuple[Path, str]] = set()
"""Of this process: its files in `.users`, and the attempts listed there."""


@dataclass
class Copies:
    """The copies below a folder of this machine; they may take `limit_bytes` beside what is
    in use.
    """

    root: Path
    limit_bytes: float

    def folder(self, attempt: str, stage: str, key: str, fingerprint: str) -> Path:
        """The folder of an artifact's files, named as in a local store."""
        return self.root / attempt / stage / key / fingerprint

    def fetch(self, artifact: BucketArtifact, names: Iterable[str]) -> Path:
        """Make verified copies of some files of an artifact; returns their folder.

        Raises:
            CorruptArtifact: If an object is missing, or its bytes differ from the manifest.
            StoreWriteError: If the disk refuses a copy.
        """
        self._use(artifact.attempt)
        folder = artifact.folder
        missing = [name for name in names if not self._is_whole(artifact, name)]
        if missing:
            self._make_room(sum(artifact.manifest["files"][name]["bytes"] for name in missing))
            try:
                for _ in each(lambda name: self._download(artifact, name), missing):
                    pass
            except OSError as error:
                raise StoreWriteError(
                    f"{error.filename or folder}: {error.strerror or error}; this copy of "
                    f"{artifact.address} cannot be written; free space, or name another "
                    "`cache.folder` in pipeline.yaml"
                ) from error
        return folder

    def adopt(self, built: Path, artifact: BucketArtifact) -> None:
        """Make a verified local artifact the copy of the one that was published from it."""
        self._use(artifact.attempt)
        self._make_room(sum(recorded["bytes"] for recorded in artifact.manifest["files"].values()))
        artifact.folder.parent.mkdir(parents=True, exist_ok=True)
        built.rename(artifact.folder)
        for name in artifact.manifest["files"]:
            self._remember(artifact, name)

    def _is_whole(self, artifact: BucketArtifact, name: str) -> bool:
        file = artifact.folder / name
        try:
            stamp = str(stamp_of(file.stat()))
            if stamp == self._memory(artifact, name).read_text():
                return True
            # A link to it changes its times; a write changes its bytes.
            whole = sha256_of(file) == artifact.manifest["files"][name]["sha256"]
        except OSError:
            return False
        if whole:
            self._remember(artifact, name)
        return whole

    def _download(self, artifact: BucketArtifact, name: str) -> None:
        file = artifact.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.root / artifact.attempt / f".partial-{secrets.token_hex(4)}"
        try:
            for _ in range(2):
                digest = artifact.store.bucket.download(f"{artifact.prefix}/{name}", partial)
                if digest == artifact.manifest["files"][name]["sha256"]:
                    rename_synced(partial, file)
                    self._remember(artifact, name)
                    return
        except FileNotFoundError as error:
            if error.filename is not None:  # of this disk
                raise
            raise CorruptArtifact(
                f"{artifact.address}: {name} is gone; rematerialize `{artifact.stage}` for "
                f"{artifact.key!r}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        artifact.mark_damaged()
        raise CorruptArtifact(
            f"{artifact.address}: the bytes of {name} differ from the manifest; rematerialize "
            f"`{artifact.stage}` for {artifact.key!r}"
        )

    def _memory(self, artifact: BucketArtifact, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        return self.root / artifact.attempt / ".verified" / digest

    def _remember(self, artifact: BucketArtifact, name: str) -> None:
        stamp = str(stamp_of((artifact.folder / name).stat()))
        memory = self._memory(artifact, name)
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(stamp)

    def _use(self, attempt: str) -> None:
        """List an attempt among those that this process has open; it is then not evicted."""
        if (self.root, attempt) in _opened:
            return
        with locked(self.root / ".lock"):
            (self.root / attempt).mkdir(parents=True, exist_ok=True)
            os.utime(self.root / attempt)
            print(attempt, file=self._user(), flush=True)
        _opened.add((self.root, attempt))

    def _user(self) -> TextIO:
        if self.root not in _users:
            path = self.root / ".users" / f"{os.getpid()}-{secrets.token_hex(4)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")  # locked until this process ends, or one forked from it
            lock(file, wait=False)
            _users[self.root] = file
        return _users[self.root]

    def _make_room(self, new_bytes: int) -> None:
        """Evict the least recently used copies, each time that this machine's processes added 2 %
        of the limit: to measure takes a walk.
        """
        counter = self.root / ".added"
        with locked(self.root / ".lock"):
            added_bytes = math.inf  # copies from before the first count
            with suppress(OSError, ValueError):
                added_bytes = int(counter.read_text()) + new_bytes
            is_due = added_bytes >= self.limit_bytes / 50
            with suppress(OSError):  # a full disk leaves it empty: the next process measures
                counter.write_text("0" if is_due else str(added_bytes))
        if is_due:
            self.evict(self.limit_bytes - new_bytes)

    def evict(self, limit_bytes: float) -> list[str]:
        """Remove the least recently used copies above a limit, except those in use; returns their
        attempts.
        """
        evicted: list[Path] = []
        with locked(self.root / ".lock"):
            in_use = set(self._in_use())
            copies = [path for path in self.root.glob("_*") if path.is_dir()]
            sizes = {path: _bytes_below(path) for path in copies}
            total = sum(sizes.values())
            for path in sorted(copies, key=lambda copy: copy.stat().st_mtime):
                if total > limit_bytes and path.name not in in_use:
                    gone = path.with_name(f".evicted-{path.name}")
                    path.rename(gone)
                    evicted.append(gone)
                    total -= sizes[path]
        for path in {*evicted, *self.root.glob(".evicted-*")}:
            shutil.rmtree(path, ignore_errors=True)
        return [path.name.removeprefix(".evicted-") for path in evicted]

    def _in_use(self) -> Iterator[str]:
        for path in self.root.glob(".users/*"):
            with suppress(FileNotFoundError), path.open("r+") as file:
                if path != Path(getattr(_users.get(self.root), "name", "")) and lock(
                    file, wait=False
                ):
                    path.unlink()  # of a process that ended
                    release(file, held=True)
                else:
                    yield from file.read().split()


def _bytes_below(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += path.stat().st_size
    return sizes
