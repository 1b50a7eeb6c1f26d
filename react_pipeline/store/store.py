"""The store: the only way in which artifacts are published.

Belongs here: building, atomic publishing, the pointer to the current artifact. Does not belong
here: the manifest and its verification (`artifacts`), who builds (`attempts`), what may be removed
(`pruning`), what depends on what (`lineage`).

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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from react_pipeline.store.artifacts import (
    CURRENT,
    FORMAT,
    MANIFEST,
    Artifact,
    Inputs,
    manifest_of,
    manifest_text,
    read_manifest,
    remember_verified,
    slug_of,
    verify,
)
from react_pipeline.store.attempts import Attempt, attempts, new_attempt
from react_pipeline.store.durable import (
    CACHE,
    create_atomically,
    fsync,
    fsync_tree,
    lock,
    release,
    stamp_of,
    write_atomically,
)
from react_pipeline.store.errors import (
    CorruptArtifact,
    InputError,
    MissingArtifact,
    ReactError,
    StoreWriteError,
)
from react_pipeline.store.file_system import LOCKS, has_locks
from react_pipeline.store.pruning import RETENTION_SECONDS, prune

logger = logging.getLogger(__name__)

DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""Errors of the disk itself; others (a missing file, a refused connection) keep their own text."""

POLL_SECONDS = 1.0
"""Between two looks at a build of another host."""

KEPT_QUARANTINED = 5

_parsed: dict[Path, tuple[tuple[int, ...], Artifact]] = {}
"""Artifacts by their folders, with `stamp_of` of their manifests; some may be removed by now."""
MAX_PARSED = 200_000


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
            try:
                version = json.loads(marker.read_text())["format"]
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                raise InputError(
                    f"{marker}: unreadable ({error!r}); restore it, or remove the store"
                ) from error
            if version != FORMAT:
                raise InputError(
                    f"{self.root}: a store of format {version}, this version reads format "
                    f"{FORMAT}; "
                    "point `store` at an empty directory, or use the version that wrote it"
                )

    def directory(self, stage: str, key: str) -> Path:
        """The folder with the artifacts of one stage and key."""
        return self.root / stage / key

    @property
    def staging(self) -> Path:
        """The folder in which attempts write."""
        return self.root / ".staging"

    def build(
        self, inputs: Inputs, write: Callable[[Path], Mapping[str, Any]], *, resumable: bool = False
    ) -> Artifact:
        """Publish the artifact of these inputs, or return the one that is already there.

        `write` fills the staging directory it is given and returns the counts for the manifest.
        With `resumable`, what a killed build left in staging is handed to it again; `write` then
        removes its own scratch files. Two builds of the same inputs wait for each other, those of
        two hosts by the lease of the first; the second verifies and returns the first one's
        artifact. Should they not see each other, one wins the rename and the other uses it.

        Raises:
            StoreWriteError: If the disk refuses a write, or another host took this build for dead.
                Nothing is published then.
        """
        self._mark()
        fingerprint = inputs.fingerprint
        slug = slug_of(inputs.stage, inputs.key, fingerprint)
        with self.locked(slug) as held:
            proof = has_locks(self.root) and held
            artifact = self._built_already(inputs, slug, locked=proof)
            left = [
                attempt for attempt in attempts(self.staging, slug) if attempt.is_dead(locked=proof)
            ]
            if artifact is not None:
                for dead in left:
                    dead.discard()
                self._set_current(artifact)
                return artifact
            attempt = new_attempt(self.staging, slug)
            with attempt.held(
                {fingerprint, *(parent.fingerprint for parent in inputs.parents.values())}
            ):
                for dead in left:
                    if not attempt.leftovers:
                        attempt.adopt(dead, staging=resumable, locked=proof)
                    dead.discard()
                return self._build(inputs, write, attempt)

    def _build(
        self, inputs: Inputs, write: Callable[[Path], Mapping[str, Any]], attempt: Attempt
    ) -> Artifact:
        staging = attempt.staging
        final = self.directory(inputs.stage, inputs.key) / inputs.fingerprint
        staging.mkdir(exist_ok=True)
        try:
            began = time.monotonic()
            counts = dict(write(staging))
            manifest = manifest_of(inputs, staging, counts, round(time.monotonic() - began, 2))
            (staging / MANIFEST).write_text(manifest_text(manifest))
            fsync_tree(staging)
            final.parent.mkdir(parents=True, exist_ok=True)
            artifact = self._publish(attempt, Artifact(final, manifest, reused=False))
        except OSError as error:
            if not attempt.lease.exists():
                raise _taken_for_dead(staging) from error
            if error.errno in DISK_FAULTS:
                raise self._write_error(error, staging) from error
            raise
        self._set_current(artifact)
        return artifact

    def _built_already(self, inputs: Inputs, slug: str, *, locked: bool) -> Artifact | None:
        """The published artifact, after the builds of other hosts have ended; None if it is this
        one's to build.
        """
        final = self.directory(inputs.stage, inputs.key) / inputs.fingerprint
        waiting = False
        while True:
            if final.exists():
                try:
                    return self.open(inputs.stage, inputs.key, inputs.fingerprint)
                except CorruptArtifact as error:
                    logger.warning("%s; building it again", error)
                    self._quarantine(final)
            living = [
                attempt
                for attempt in attempts(self.staging, slug)
                if not attempt.is_dead(locked=locked)
            ]
            if not living:
                return None
            if not waiting:
                logger.info("waiting: another host builds %s (%s)", slug, living[0].lease)
            waiting = True
            time.sleep(POLL_SECONDS)

    def is_begun(self, inputs: Inputs) -> bool:
        """Whether the artifact of these inputs is published, or anything was done for it."""
        slug = slug_of(inputs.stage, inputs.key, inputs.fingerprint)
        return inputs.fingerprint in self.versions(inputs.stage, inputs.key) or bool(
            attempts(self.staging, slug)
        )

    def leave(self, inputs: Inputs, scratch: Path) -> None:
        """Let the next build of these inputs resume from a folder on the disk of the store, as if
        it had been killed after it wrote that.
        """
        self._mark()
        slug = slug_of(inputs.stage, inputs.key, inputs.fingerprint)
        scratch.rename(new_attempt(self.staging, slug).scratch)

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """A published artifact, every file checked against its manifest (bytes and SHA-256;
        `artifacts.verify`).

        Raises:
            MissingArtifact: If it was never published.
            CorruptArtifact: If anything differs; the text names the asset to rematerialize.
        """
        artifact = self.unverified(stage, key, fingerprint)
        verify(artifact)
        return artifact

    def unverified(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """A published artifact by its manifest alone, for whoever reads no file of it. The manifest
        is parsed once in this process for as long as it is the same.

        Raises:
            MissingArtifact: If it was never published.
            CorruptArtifact: If its manifest is damaged.
        """
        path = self.directory(stage, key) / fingerprint
        try:
            stamp: tuple[int, ...] = stamp_of((path / MANIFEST).stat())
        except OSError as error:
            if not path.exists():
                raise MissingArtifact(
                    f"{path}: not there; materialize `{stage}` for {key!r}", (stage, key)
                ) from error
            stamp = ()  # reading it says what is wrong
        if path not in _parsed or _parsed[path][0] != stamp:
            if len(_parsed) >= MAX_PARSED:
                _parsed.clear()
            _parsed[path] = stamp, Artifact(path, read_manifest(path, stage))
        return _parsed[path][1]

    def versions(self, stage: str, key: str) -> list[str]:
        """Fingerprints of all published artifacts of a stage and key, sorted."""
        manifests = self.directory(stage, key).glob(f"*/{MANIFEST}")
        return sorted(path.parent.name for path in manifests)

    def pointer(self, stage: str, key: str) -> str | None:
        """The fingerprint of the current artifact, which may be damaged; None if there is none."""
        try:
            return (self.directory(stage, key) / CURRENT).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def current(self, stage: str, key: str) -> Artifact:
        """The artifact that downstream steps read: the one built (or found again) last.

        Raises:
            MissingArtifact: If none was built yet.
            CorruptArtifact: If it does not match its manifest.
        """
        fingerprint = self.pointer(stage, key)
        if fingerprint is None:
            raise MissingArtifact(
                f"`{stage}` has not been materialized for {key!r}: materialize it first",
                (stage, key),
            )
        return self.open(stage, key, fingerprint)

    def has(self, stage: str, key: str) -> bool:
        """Whether a stage has a current artifact of this key, which may be damaged."""
        return self.pointer(stage, key) is not None

    def keys(self, stage: str) -> list[str]:
        """Keys of a stage that have a current artifact, sorted."""
        base = self.root / stage
        # Not within artifacts, which `prune` may remove meanwhile.
        pointers = (*base.glob(f"*/{CURRENT}"), *base.glob(f"*/*/{CURRENT}"))
        return sorted(
            path.parent.relative_to(base).as_posix() for path in pointers if path.is_file()
        )

    def read_note(self, name: str) -> str | None:
        """What `write_note` kept under a name; None if it is lost."""
        try:
            return self._note(name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def write_note(self, name: str, text: str) -> None:
        """Keep a text beside the artifacts that can be lost without harm, for all hosts."""
        write_atomically(self._note(name), text)

    def create_note(self, name: str, text: str) -> bool:
        """Keep a text under a name that has none yet; returns whether this call created it.

        Of all callers, on all hosts, exactly one gets True; `read_note` then gives every other one
        the whole text.
        """
        return create_atomically(self._note(name), text)

    def _note(self, name: str) -> Path:
        return self.root / CACHE / name

    def address(self, stage: str, key: str) -> str:
        """Where the artifacts of a stage and key are: a path or a URL."""
        return str(self.directory(stage, key))

    def look(self) -> Store:
        """The same store from now on, for whoever reads no file: artifacts are opened by their
        manifests, and not verified.
        """
        from react_pipeline.store.look import StoreLook  # a store too

        return StoreLook(self.root)

    def require_usable(self) -> None:
        """Try what building depends on.

        Raises:
            InputError: If access is refused, or something is not supported.
            SourceUnavailable: If a server does not answer.
        """

    def verify(self) -> Iterator[tuple[str, CorruptArtifact | None]]:
        """Read every published artifact in full, whatever is remembered; yields the address of each
        with what is wrong with it.
        """
        for path in sorted(manifest.parent for manifest in self.root.glob("[!.]*/**/" + MANIFEST)):
            stage = path.relative_to(self.root).parts[0]
            try:
                verify(Artifact(path, read_manifest(path, stage)), anew=True)
            except CorruptArtifact as error:
                yield str(path), error
            else:
                yield str(path), None

    def prune(self, *, dry_run: bool = False, keep_seconds: float = RETENTION_SECONDS) -> list[str]:
        """Remove what nothing uses any more (`pruning.prune`); returns the addresses."""
        with self.locked("prune"):
            return prune(self, dry_run=dry_run, keep_seconds=keep_seconds)

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock of this store, for what must happen one after another; yields whether it is
        held.

        It is not where the file system has no locks, or another process holds it and `wait` is
        false.
        """
        locks = self.root / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{name}.lock").open("w") as file:
            held = lock(file, wait=False)
            if wait and not held and has_locks(self.root):
                logger.info("waiting: another run holds %s", name)
                held = lock(file)
            try:
                yield held
            finally:
                release(file, held)

    def is_building(self, stage: str, key: str, fingerprint: str) -> bool:
        """Whether a process of this or another host builds this very artifact now."""
        slug = slug_of(stage, key, fingerprint)
        with self.try_lock(slug) as held:
            return any(not attempt.is_dead(locked=held) for attempt in attempts(self.staging, slug))

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """Hold a lock of this store if it is free; yields whether it was. Never on a file system
        without locks.
        """
        with self.locked(name, wait=False) as held:
            yield has_locks(self.root) and held

    def _mark(self) -> None:
        self.staging.mkdir(parents=True, exist_ok=True)
        marker = self.root / "store.json"
        if not marker.exists():
            write_atomically(marker, json.dumps({"format": FORMAT}) + "\n")

    def _publish(self, attempt: Attempt, artifact: Artifact) -> Artifact:
        if not attempt.lease.exists():
            raise _taken_for_dead(attempt.staging)
        try:
            attempt.staging.rename(artifact.path)
        except OSError:
            # A builder that locks and leases did not stop was faster: exactly one rename succeeds.
            if not artifact.path.exists():
                raise
            winner = self.open(artifact.stage, artifact.key, artifact.fingerprint)
            attempt.discard()
            return winner
        fsync(artifact.path.parent)
        shutil.rmtree(attempt.scratch, ignore_errors=True)
        remember_verified(artifact)
        return artifact

    def _set_current(self, artifact: Artifact) -> None:
        if self.pointer(artifact.stage, artifact.key) != artifact.fingerprint:
            pointer = self.directory(artifact.stage, artifact.key) / CURRENT
            write_atomically(pointer, artifact.fingerprint + "\n")

    def _quarantine(self, path: Path) -> None:
        quarantine = self.root / ".quarantine"
        quarantine.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another build was faster
            path.rename(quarantine / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{path.name}")
        for old in sorted(quarantine.iterdir())[:-KEPT_QUARANTINED]:
            shutil.rmtree(old, ignore_errors=True)

    def _write_error(self, error: OSError, staging: Path) -> ReactError:
        written = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        free = shutil.disk_usage(self.root).free
        return StoreWriteError(
            f"{error.filename or staging}: {error.strerror or error}; {written:,} bytes were "
            f"written and {free:,} are free on that disk, so this artifact needs more than "
            f"{written + free:,}. Nothing was published; free space (react-pipeline prune) and run "
            "again"
        )


def _taken_for_dead(staging: Path) -> StoreWriteError:
    return StoreWriteError(
        f"{staging}: another host took this build for dead, since its lease was not touched for "
        "too long (was the process suspended?). Nothing was published; run again"
    )
