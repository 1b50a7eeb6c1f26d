"""Artifacts: a directory that is absent, or complete and verified.

Belongs here: what an artifact and a step's inputs are, the manifest, and its verification. Does not
belong here: how artifacts are published (`store`), what any artifact contains, which depends on
which (`lineage`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from react_pipeline.store.durable import CACHE, sha256_of, stamp_of, write_atomically
from react_pipeline.store.errors import CorruptArtifact

logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the layout and of the manifest. A store of another format is refused."""

MANIFEST = "manifest.json"
CURRENT = "current"

_verified: dict[Path, str] = {}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text. NaN is refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest_of(value: Any) -> str:
    """16 hexadecimal digits over a value of plain types; equal values give equal digests."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """A published artifact: `path` is its directory, `manifest` what was recorded when it was
    published.

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
        """16 hexadecimal digits, a digest of every input of this artifact."""
        return str(self.manifest["fingerprint"])

    @property
    def root(self) -> Path:
        """Folder of this machine for what is kept beside artifacts."""
        return self.path.parents[self.key.count("/") + 2]

    @property
    def address(self) -> str:
        """Where it is published: a path or a URL."""
        return str(self.path)

    @property
    def counts(self) -> dict[str, Any]:
        """The counts and measurements of the build."""
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
            raise CorruptArtifact(
                f"{self.path}: no file {name!r} in its manifest; rematerialize `{self.stage}`"
            )
        return self.path / name

    def folder_with(self, _names: Iterable[str]) -> Path:
        """The folder of the artifact, in which at least these of its files are."""
        return self.path

    def open_parent(self, stage: str) -> Artifact:
        """The artifact of a stage that this one was made from, of the same key.

        Raises:
            MissingArtifact: If it was removed.
            CorruptArtifact: If it does not match its manifest.
        """
        from react_pipeline.store.store import Store  # which publishes artifacts

        return Store(self.root).open(stage, self.key, self.parents[stage])


@dataclass(frozen=True)
class Inputs:
    """Everything that decides what a step builds.

    Attributes:
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
    def identity(self) -> dict[str, Any]:
        """All of it as plain values, parents by their fingerprints."""
        return {
            **vars(self),
            "parents": {name: parent.fingerprint for name, parent in self.parents.items()},
        }

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all inputs; equal inputs give equal fingerprints."""
        return digest_of(self.identity)


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over everything in a manifest but its own digest."""
    rest = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest file."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


def read_manifest(path: Path, stage: str) -> dict[str, Any]:
    """The manifest in an artifact's directory.

    Raises:
        CorruptArtifact: If it cannot be read or belongs to another artifact.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptArtifact(
            f"{path / MANIFEST}: unreadable ({error}); rematerialize `{stage}`"
        ) from error
    require_manifest(manifest, stage, path.name, str(path / MANIFEST))
    return manifest


def require_manifest(manifest: Any, stage: str, fingerprint: str, address: str) -> None:
    """Refuse what is not the manifest of an artifact of this format and fingerprint.

    Raises:
        CorruptArtifact: Naming the `address` that it was read from.
    """
    is_ours = (
        isinstance(manifest, dict)
        and manifest.get("format") == FORMAT
        and manifest.get("fingerprint") == fingerprint
    )
    # Its counts are reported as results, so the manifest has its own digest too.
    if not is_ours or manifest.get("digest") != manifest_digest(manifest):
        raise CorruptArtifact(
            f"{address}: not the manifest of this artifact; rematerialize `{stage}`"
        )


def verify(artifact: Artifact, *, anew: bool = False) -> None:
    """Compare every file with the manifest: its size and its SHA-256.

    An artifact may be terabytes and is opened by every process of a run, so what was compared once
    on this machine is remembered next to the store, with inode, size and times of each file as the
    kernel keeps them. While these are the same, no file was written to since, and hashing it again
    is spared. A disk that changes bytes by itself leaves no such trace: `anew` reads everything
    (`react-pipeline verify`).

    Raises:
        CorruptArtifact: Naming the file that is missing or differs.
    """
    with _damage_named(artifact):
        stamp = _stamp(artifact)
    if anew or stamp not in (_verified.get(artifact.path), _remembered(artifact)):
        verify_files(artifact, artifact.manifest["files"])
        _remember(artifact, stamp)


def verify_files(artifact: Artifact, names: Iterable[str]) -> None:
    """Read some files of an artifact, and compare them with the manifest.

    Raises:
        CorruptArtifact: Naming the file that is missing or differs.
    """
    with _damage_named(artifact):
        for name in names:
            path = artifact.file(name)
            recorded = artifact.manifest["files"][name]
            if path.stat().st_size != recorded["bytes"] or sha256_of(path) != recorded["sha256"]:
                raise CorruptArtifact(
                    f"{path}: its bytes differ from the manifest ({path.stat().st_size:,} bytes, "
                    f"recorded {recorded['bytes']:,}); rematerialize `{artifact.stage}` for "
                    f"{artifact.key!r}"
                )


@contextlib.contextmanager
def _damage_named(artifact: Artifact) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # missing, or a disk that cannot read it
        raise CorruptArtifact(
            f"{error.filename or artifact.path}: {error.strerror or error}; rematerialize "
            f"`{artifact.stage}` for {artifact.key!r}"
        ) from error


def remember_verified(artifact: Artifact) -> None:
    """Spare the hashing of an artifact whose manifest was just made of these very files."""
    _remember(artifact, _stamp(artifact))


def link_file(artifact: Artifact, name: str, place: Path) -> bool:
    """Give a file of an opened artifact a second name, for a reader that never writes to it.

    Returns:
        Whether it has it; false where the place is on another disk, or the file system knows no
        links.
    """
    verified = _verified.get(artifact.path) == _stamp(artifact)
    try:
        os.link(artifact.file(name), place)
    except OSError:
        return False
    if verified:  # a link changes the time of change, by which that is remembered
        remember_verified(artifact)
    return True


def slug_of(stage: str, key: str, fingerprint: str) -> str:
    """Name of an artifact where no folder below a folder is wanted."""
    return f"{stage}--{key.replace('/', '--')}--{fingerprint}"


def memory_of_verified(root: Path) -> Path:
    """Folder below a store's root with what was verified, one file an artifact, named by its
    fingerprint at the end.
    """
    return root / CACHE / "verified"


def _stamp(artifact: Artifact) -> str:
    """Digest of what the kernel says of the files."""
    seen = [stamp_of((artifact.path / name).stat()) for name in artifact.manifest["files"]]
    identity = [str(artifact.path), artifact.manifest["digest"], seen]
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def _memory(artifact: Artifact) -> Path:
    slug = slug_of(artifact.stage, artifact.key, artifact.fingerprint)
    return memory_of_verified(artifact.root) / slug


def _remembered(artifact: Artifact) -> str | None:
    try:
        return _memory(artifact).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _remember(artifact: Artifact, stamp: str) -> None:
    _verified[artifact.path] = stamp
    with contextlib.suppress(OSError):  # a store that may only be read: then once a process
        write_atomically(_memory(artifact), stamp)


def manifest_of(
    inputs: Inputs, staging: Path, counts: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The manifest of a staged artifact: its inputs, every file with digest and size, its counts,
    what it took.
    """
    files = {}
    for path in sorted(staging.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            recorded = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
            files[path.relative_to(staging).as_posix()] = recorded
    manifest = {
        "format": FORMAT,
        "fingerprint": inputs.fingerprint,
        **inputs.identity,
        "files": files,
        "counts": counts,
        "build_seconds": seconds,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    # As it is read back: JSON turns tuples into lists and keys into text.
    stored: dict[str, Any] = json.loads(json.dumps(manifest))
    return {**stored, "digest": manifest_digest(stored)}
