"""An artifact in object storage.

Belongs here: its objects, and its files on this machine. Does not belong here: how it is published
(`upload`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.store import (
    MANIFEST,
    Artifact,
    CorruptArtifact,
    manifest_text,
    write_atomically,
)

if TYPE_CHECKING:
    from react_pipeline.extensions.buckets.bucket_store import BucketStore

DAMAGED = ".damaged"
"""Beside the files of an attempt whose bytes were found to differ."""


class BucketArtifact(Artifact):
    """A published artifact whose files are copied to this machine when they are asked for."""

    def __init__(
        self, store: BucketStore, attempt: str, manifest: Mapping[str, Any], reused: bool = True
    ) -> None:
        """Nothing is fetched yet."""
        fields = {"store": store, "attempt": attempt, "manifest": manifest, "reused": reused}
        self.__dict__.update(fields)

    store: BucketStore
    attempt: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketArtifact) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str]:
        return self.attempt, str(self.manifest["digest"])

    @property
    def prefix(self) -> str:
        """Of its objects."""
        return f"{self.stage}/{self.key}/{self.fingerprint}/{self.attempt}"

    @property
    def folder(self) -> Path:
        """Folder of its local copy, which may lack files."""
        return self.store.copies.folder(self.attempt, self.stage, self.key, self.fingerprint)

    @property
    def path(self) -> Path:
        """Folder of a whole, verified local copy."""
        folder = self.store.copies.fetch(self, self.manifest["files"])
        if not (folder / MANIFEST).exists():
            write_atomically(folder / MANIFEST, manifest_text(self.manifest))
        return folder

    @property
    def root(self) -> Path:
        """Folder of this machine for what is kept beside artifacts."""
        return self.store.root

    @property
    def address(self) -> str:
        """Its URL."""
        return self.store.address(self.stage, f"{self.key}/{self.fingerprint}")

    def file(self, name: str) -> Path:
        """Path of a verified local copy of a file."""
        if name not in self.manifest["files"]:
            raise CorruptArtifact(
                f"{self.address}: no file {name!r} in its manifest; rematerialize `{self.stage}`"
            )
        return self.store.copies.fetch(self, [name]) / name

    def folder_with(self, names: Iterable[str]) -> Path:
        """The folder of verified local copies of some files."""
        return self.store.copies.fetch(self, names)

    def mark_damaged(self) -> None:
        """Let the next build make it again, since its bytes differ."""
        self.store.bucket.write(f"{self.prefix}/{DAMAGED}", b"")

    def require_objects(self, sizes: Mapping[str, int]) -> None:
        """Compare sizes of its objects with the manifest.

        Raises:
            CorruptArtifact: If one is missing, or of another size, or its bytes differed before.
        """
        for name, recorded in self.manifest["files"].items():
            if DAMAGED in sizes or sizes.get(name) != recorded["bytes"]:
                raise CorruptArtifact(
                    f"{self.address}: {name} is missing or damaged; rematerialize "
                    f"`{self.stage}` for {self.key!r}"
                )

    def verify(self) -> None:
        """Read every object.

        Raises:
            CorruptArtifact: If one is missing, or its bytes differ from the manifest.
        """
        self.require_objects(self.store.sizes(self))
        for name, recorded in self.manifest["files"].items():
            if self.store.bucket.download(f"{self.prefix}/{name}", None) != recorded["sha256"]:
                self.mark_damaged()
                raise CorruptArtifact(
                    f"{self.address}: the bytes of {name} differ from the manifest; "
                    f"rematerialize `{self.stage}` for {self.key!r}"
                )

    def open_parent(self, stage: str) -> Artifact:
        """The artifact of a stage that this one was made from, of the same key."""
        return self.store.open(stage, self.key, self.parents[stage])
