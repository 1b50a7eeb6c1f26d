"""The store: the only way in which artifacts are published.

Belongs here: staging, atomic publishing, the pointer to the current artifact, pruning. Does not belong here: the
manifest and its verification (`artifacts`), which artifact depends on which (`lineage`).

Layout::

    <store>/<stage>/<key>/<fingerprint>/manifest.json   one artifact and its files
    <store>/<stage>/<key>/current                       the fingerprint that downstream steps read
    <store>/.staging/  .locks/  .quarantine/            never read as artifacts
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from react_pipeline.store.artifacts import (
    CURRENT,
    FORMAT,
    MANIFEST,
    Artifact,
    Inputs,
    manifest_digest,
    memory_of_verified,
    read_manifest,
    remember_verified,
    verify,
)
from react_pipeline.store.durable import fsync, fsync_tree, locked, sha256_of, write_atomically
from react_pipeline.store.errors import CorruptArtifact, InputError, MissingArtifact, ReactError, StoreWriteError

logger = logging.getLogger(__name__)

DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""Errors of the disk itself; others (a missing file, a refused connection) keep their own text."""

SCRATCH = ".scratch"
"""Ends the name of a folder beside staging that is no part of the artifact (`Store.scratch`)."""


class Store:
    """The directory in which artifacts are published."""

    def __init__(self, root: Path) -> None:
        """Open a store; nothing is written before the first build.

        Raises:
            InputError: If the directory holds a store of another format.
        """
        self.root = root.resolve()
        marker = self.root / "store.json"
        if marker.exists():
            found = json.loads(marker.read_text()).get("format")
            if found != FORMAT:
                raise InputError(
                    f"{self.root}: a store of format {found}, this version reads format {FORMAT}; "
                    "point `store` at an empty directory, or use the version that wrote it"
                )

    def directory(self, stage: str, key: str) -> Path:
        """Where the artifacts of one stage and key lie."""
        return self.root / stage / key

    def scratch(self, inputs: Inputs) -> Path:
        """Where a build of these inputs keeps what it goes on from after a kill; for its `write` alone.

        It is no part of the artifact, and stays until that is published: a kill while files are hashed and synced costs
        no more than one at any other time.
        """
        path = self.root / ".staging" / (_slug(inputs.stage, inputs.key, inputs.fingerprint) + SCRATCH)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def build(self, inputs: Inputs, write: Callable[[Path], Mapping[str, Any]], *, resumable: bool = False) -> Artifact:
        """Publish the artifact of these inputs, or return the one that is already there.

        `write` fills the staging directory it is given and returns the counts for the manifest. With `resumable`, what
        a killed build left in staging is handed to it again; `write` then removes its own scratch files. Two builds of
        the same inputs wait for each other; the second verifies and returns the first one's artifact.

        Raises:
            StoreWriteError: If the disk refuses a write. Nothing is published then.
        """
        self._mark()
        fingerprint = inputs.fingerprint
        final = self.directory(inputs.stage, inputs.key) / fingerprint
        slug = _slug(inputs.stage, inputs.key, fingerprint)
        staging = self.root / ".staging" / slug
        scratch = staging.with_name(slug + SCRATCH)
        with self.locked(slug):
            if final.exists():
                try:
                    artifact = self.open(inputs.stage, inputs.key, fingerprint)
                except CorruptArtifact as error:
                    logger.warning("%s; building it again", error)
                    self._quarantine(final)
                else:
                    shutil.rmtree(scratch, ignore_errors=True)
                    self._set_current(artifact)
                    return artifact
            if staging.exists() and not resumable:
                shutil.rmtree(staging)
            staging.mkdir(parents=True, exist_ok=True)
            try:
                counts = dict(write(staging))
                manifest = self._manifest(inputs, staging, counts)
                (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
                fsync_tree(staging)
                final.parent.mkdir(parents=True, exist_ok=True)
                self._publish(staging, final)
            except OSError as error:
                if error.errno in DISK_FAULTS:
                    raise self._write_error(error, staging) from error
                raise
            shutil.rmtree(scratch, ignore_errors=True)
            artifact = Artifact(final, manifest, reused=False)
            remember_verified(artifact)
            self._set_current(artifact)
            return artifact

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """A published artifact, every file checked against its manifest (bytes and SHA-256; `artifacts.verify`).

        Raises:
            MissingArtifact: If it was never published.
            CorruptArtifact: If anything differs; the text names the asset to rematerialize.
        """
        path = self.directory(stage, key) / fingerprint
        if not path.exists():
            raise MissingArtifact(f"{path}: not there; materialize `{stage}` for {key!r}")
        artifact = Artifact(path, read_manifest(path, stage))
        verify(artifact)
        return artifact

    def current(self, stage: str, key: str) -> Artifact:
        """The artifact that downstream steps read: the one built (or found again) last.

        Raises:
            MissingArtifact: If none was built yet.
            CorruptArtifact: If it does not match its manifest.
        """
        pointer = self.directory(stage, key) / CURRENT
        if not pointer.exists():
            raise MissingArtifact(f"`{stage}` has not been materialized for {key!r}: materialize it first")
        return self.open(stage, key, pointer.read_text().strip())

    def has(self, stage: str, key: str) -> bool:
        """Whether a stage has a current artifact of this key, which may be damaged."""
        return (self.directory(stage, key) / CURRENT).exists()

    def keys(self, stage: str) -> list[str]:
        """Keys of a stage that have a current artifact, sorted."""
        base = self.root / stage
        return sorted(pointer.parent.relative_to(base).as_posix() for pointer in base.rglob(CURRENT))

    def verify(self) -> Iterator[tuple[Path, CorruptArtifact | None]]:
        """Read every published artifact in full, whatever is remembered; yields each with what is wrong with it."""
        for path in sorted(found.parent for found in self.root.glob("[!.]*/**/" + MANIFEST)):
            stage = path.relative_to(self.root).parts[0]
            try:
                verify(Artifact(path, read_manifest(path, stage)), anew=True)
            except CorruptArtifact as error:
                yield path, error
            else:
                yield path, None

    def prune(self, *, dry_run: bool = False) -> list[Path]:
        """Remove artifacts that are neither current nor parents of current ones, and leftovers of killed builds.

        What a running build holds locked is kept. Returns the removed paths (those that would be, with `dry_run`).
        """
        keep: set[str] = set()
        pointers = [p for p in self.root.rglob(CURRENT) if not p.relative_to(self.root).parts[0].startswith(".")]
        for pointer in pointers:
            keep.add(pointer.read_text().strip())
        manifests = {path.parent: path for path in self.root.glob("[!.]*/**/" + MANIFEST)}
        by_fingerprint = {directory.name: directory for directory in manifests}
        pending = list(keep)
        while pending:
            directory = by_fingerprint.get(pending.pop())
            for parent in json.loads(manifests[directory].read_text())["parents"].values() if directory else ():
                if parent not in keep:
                    keep.add(parent)
                    pending.append(parent)
        doomed = [directory for directory in manifests if directory.name not in keep]
        doomed += list((self.root / ".quarantine").glob("*"))
        staging = self.root / ".staging"
        staged = {path.name.removesuffix(SCRATCH) for path in staging.glob("*")}
        removed = []
        for path in sorted(doomed):
            removed.append(path)
            if not dry_run:
                shutil.rmtree(path)
        for slug in sorted(staged):
            with self.locked(slug, wait=False) as held:
                # Looked for again: a build may have ended before the lock was had.
                for path in (staging / slug, staging / (slug + SCRATCH)):
                    if held and path.exists():
                        removed.append(path)
                        if not dry_run:
                            shutil.rmtree(path)
        if not dry_run:
            gone = {directory.name for directory in doomed}
            for memory in memory_of_verified(self.root).glob("*"):
                if memory.name.rpartition("--")[2] in gone:
                    memory.unlink()
        return removed

    def locked(self, name: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold a lock of this store (`durable.locked`), for what must happen one after another."""
        return locked(self.root / ".locks" / f"{name}.lock", wait=wait)

    def is_building(self, stage: str, key: str, fingerprint: str) -> bool:
        """Whether a process of this machine builds this very artifact now."""
        with self.locked(_slug(stage, key, fingerprint), wait=False) as held:
            return not held

    def _mark(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        marker = self.root / "store.json"
        if not marker.exists():
            write_atomically(marker, json.dumps({"format": FORMAT}) + "\n")

    def _manifest(self, inputs: Inputs, staging: Path, counts: dict[str, Any]) -> dict[str, Any]:
        files = sorted(path for path in staging.rglob("*") if path.is_file() and path.name != MANIFEST)
        manifest = {
            "format": FORMAT,
            "stage": inputs.stage,
            "key": inputs.key,
            "fingerprint": inputs.fingerprint,
            "config": inputs.config,
            "content": inputs.content,
            "parents": {name: parent.fingerprint for name, parent in inputs.parents.items()},
            "code_version": inputs.code_version,
            "files": {
                path.relative_to(staging).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
                for path in files
            },
            "counts": counts,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # As it is read back: JSON turns tuples into lists and keys into text.
        stored: dict[str, Any] = json.loads(json.dumps(manifest))
        return {**stored, "digest": manifest_digest(stored)}

    def _publish(self, staging: Path, final: Path) -> None:
        try:
            staging.rename(final)
        except OSError:
            # On a file system without flock another host may have published the same inputs first: use that one.
            if not final.exists():
                raise
            verify(Artifact(final, read_manifest(final, final.parent.name)))
            shutil.rmtree(staging)
        fsync(final.parent)

    def _set_current(self, artifact: Artifact) -> None:
        pointer = self.directory(artifact.stage, artifact.key) / CURRENT
        if not pointer.exists() or pointer.read_text().strip() != artifact.fingerprint:
            write_atomically(pointer, artifact.fingerprint + "\n")

    def _quarantine(self, path: Path) -> None:
        target = self.root / ".quarantine" / f"{path.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)

    def _write_error(self, error: OSError, staging: Path) -> ReactError:
        written = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.root).free
        return StoreWriteError(
            f"{error.filename or staging}: {error.strerror or error}; {written:,} bytes were written and {free:,} are "
            f"free on that disk, so this artifact needs more than {written + free:,}. Nothing was published; free "
            "space (react-pipeline prune) and run again"
        )


def _slug(stage: str, key: str, fingerprint: str) -> str:
    return f"{stage}--{key.replace('/', '--')}--{fingerprint}"
