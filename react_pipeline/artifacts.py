"""Artifacts: a directory that is absent, or complete and verified.

Belongs here: staging, the manifest, atomic publishing, verification, the pointer to the current artifact, pruning.
Does not belong here: what any artifact contains, or which artifact depends on which (`lineage`).

Layout of a store::

    <store>/<stage>/<key>/<fingerprint>/manifest.json   one artifact and its files
    <store>/<stage>/<key>/current                       the fingerprint that downstream steps read
    <store>/.staging/  .locks/  .quarantine/            never read as artifacts
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from react_pipeline.errors import CorruptArtifact, InputError, MissingArtifact, ReactError, StoreWriteError

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout and of the manifest. A store of another format is refused."""

MANIFEST = "manifest.json"
CURRENT = "current"

_verified: dict[Path, tuple[int, ...]] = {}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Artifact:
    """A published artifact: `path` is its directory, `manifest` what was recorded when it was published.

    `reused` is true when a build found it already published instead of making it.
    """

    path: Path
    manifest: Mapping[str, Any]
    reused: bool = field(default=True, compare=False)

    @property
    def stage(self) -> str:
        """Name of the asset, such as `faiss_index`."""
        return str(self.manifest["stage"])

    @property
    def key(self) -> str:
        """`all`, a domain's slug, or `<domain>/<method>`."""
        return str(self.manifest["key"])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for every input of this artifact."""
        return str(self.manifest["fingerprint"])

    @property
    def counts(self) -> dict[str, Any]:
        """What the step counted or measured while it built the artifact."""
        return dict(self.manifest["counts"])

    @property
    def parents(self) -> dict[str, str]:
        """Fingerprint of each parent, by name."""
        return dict(self.manifest["parents"])

    def file(self, name: str) -> Path:
        """Path of a file listed in the manifest.

        Raises:
            CorruptArtifact: If the manifest lists no such file.
        """
        if name not in self.manifest["files"]:
            raise CorruptArtifact(f"{self.path}: no file {name!r} in its manifest; rematerialize `{self.stage}`")
        return self.path / name


@dataclass(frozen=True)
class Inputs:
    """Everything that decides what a step builds.

    Attributes:
        stage: Name of the asset.
        key: `all`, a domain's slug, or `<domain>/<method>`.
        config: The part of the configuration that changes the result, as plain JSON values.
        content: Identity of outside data (digests of the user's shards, say), as plain JSON values.
        parents: Artifacts the step reads, by name.
        code_version: Changed by hand when the step's code changes its result.
    """

    stage: str
    key: str
    config: Mapping[str, Any]
    parents: Mapping[str, Artifact]
    code_version: str
    content: Any = None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all inputs; equal inputs give equal fingerprints."""
        identity = {
            "stage": self.stage,
            "key": self.key,
            "config": self.config,
            "content": self.content,
            "parents": {name: parent.fingerprint for name, parent in self.parents.items()},
            "code_version": self.code_version,
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


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
        slug = f"{inputs.stage}--{inputs.key.replace('/', '--')}--{fingerprint}"
        with self._locked(slug):
            if final.exists():
                try:
                    artifact = self.open(inputs.stage, inputs.key, fingerprint)
                except CorruptArtifact as error:
                    logger.warning("%s; building it again", error)
                    self._quarantine(final)
                else:
                    self._set_current(artifact)
                    return artifact
            staging = self.root / ".staging" / slug
            if staging.exists() and not resumable:
                shutil.rmtree(staging)
            staging.mkdir(parents=True, exist_ok=True)
            try:
                counts = dict(write(staging))
                manifest = self._manifest(inputs, staging, counts)
                (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
                _fsync_tree(staging)
                final.parent.mkdir(parents=True, exist_ok=True)
                self._publish(staging, final)
            except OSError as error:
                raise self._write_error(error, staging) from error
            artifact = Artifact(final, manifest, reused=False)
            _verified[final] = _stamp(artifact)
            self._set_current(artifact)
            return artifact

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """A published artifact, every file checked against its manifest (bytes and SHA-256).

        Raises:
            MissingArtifact: If it was never published.
            CorruptArtifact: If anything differs; the text names the asset to rematerialize.
        """
        path = self.directory(stage, key) / fingerprint
        if not path.exists():
            raise MissingArtifact(f"{path}: not there; materialize `{stage}` for {key!r}")
        artifact = Artifact(path, _read_manifest(path, stage))
        _verify(artifact)
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

    def keys(self, stage: str) -> list[str]:
        """Keys of a stage that have a current artifact, sorted."""
        base = self.root / stage
        return sorted(pointer.parent.relative_to(base).as_posix() for pointer in base.rglob(CURRENT))

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
        staged = list((self.root / ".staging").glob("*"))
        removed = []
        for path in sorted(doomed):
            removed.append(path)
            if not dry_run:
                shutil.rmtree(path)
        for path in sorted(staged):
            with self._locked(path.name, wait=False) as held:
                if held:
                    removed.append(path)
                    if not dry_run:
                        shutil.rmtree(path)
        return removed

    def _mark(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        marker = self.root / "store.json"
        if not marker.exists():
            _write_atomically(marker, json.dumps({"format": FORMAT}) + "\n")

    @contextmanager
    def _locked(self, slug: str, *, wait: bool = True) -> Iterator[bool]:
        # flock is freed by the kernel when its holder dies, so a SIGKILL leaves no lock behind.
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{slug}.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                logger.info("waiting: another run builds %s", slug)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield True

    def _manifest(self, inputs: Inputs, staging: Path, counts: dict[str, Any]) -> dict[str, Any]:
        files = sorted(path for path in staging.rglob("*") if path.is_file() and path.name != MANIFEST)
        return {
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

    def _publish(self, staging: Path, final: Path) -> None:
        try:
            staging.rename(final)
        except OSError:
            # On a file system without flock another host may have published the same inputs first: use that one.
            if not final.exists():
                raise
            _verify(Artifact(final, _read_manifest(final, final.parent.name)))
            shutil.rmtree(staging)
        _fsync(final.parent)

    def _set_current(self, artifact: Artifact) -> None:
        pointer = self.directory(artifact.stage, artifact.key) / CURRENT
        if not pointer.exists() or pointer.read_text().strip() != artifact.fingerprint:
            _write_atomically(pointer, artifact.fingerprint + "\n")

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


def _read_manifest(path: Path, stage: str) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"{path / MANIFEST}: unreadable ({error}); rematerialize `{stage}`") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("fingerprint") != path.name:
        raise CorruptArtifact(f"{path / MANIFEST}: not the manifest of this artifact; rematerialize `{stage}`")
    return manifest


def _stamp(artifact: Artifact) -> tuple[int, ...]:
    stats = ((artifact.path / name).stat() for name in artifact.manifest["files"])
    return tuple(value for stat in stats for value in (stat.st_ino, stat.st_size, stat.st_mtime_ns))


def _verify(artifact: Artifact) -> None:
    try:
        stamp = _stamp(artifact)
    except OSError as error:
        raise CorruptArtifact(f"{error.filename}: missing; rematerialize `{artifact.stage}`") from error
    # Hashing gigabytes once a process is enough while inode, size and time stay the same.
    if _verified.get(artifact.path) == stamp:
        return
    for name, recorded in artifact.manifest["files"].items():
        path = artifact.path / name
        if path.stat().st_size != recorded["bytes"] or sha256_of(path) != recorded["sha256"]:
            raise CorruptArtifact(
                f"{path}: its bytes differ from the manifest ({path.stat().st_size:,} bytes, recorded "
                f"{recorded['bytes']:,}); rematerialize `{artifact.stage}` for {artifact.key!r}"
            )
    _verified[artifact.path] = stamp


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    _fsync(temporary)
    temporary.replace(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_tree(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        _fsync(path)
