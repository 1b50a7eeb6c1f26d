"""Uploads: what the workshop built becomes objects, and is published by its manifest.

Belongs here: one attempt to publish. Does not belong here: building (`bucket_store`).
"""

from __future__ import annotations

import json
import secrets
import shutil
from typing import TYPE_CHECKING

from react_pipeline.extensions.buckets.bucket import ConflictError, each
from react_pipeline.extensions.buckets.bucket_artifact import BucketArtifact
from react_pipeline.store import MANIFEST, Artifact, CorruptArtifact, StoreWriteError

if TYPE_CHECKING:
    from react_pipeline.extensions.buckets.bucket_store import BucketStore
    from react_pipeline.extensions.buckets.leases import Lease


class Upload:
    """One attempt; it shares no object with another."""

    def __init__(self, store: BucketStore, built: Artifact) -> None:
        """Nothing is uploaded yet."""
        self.store = store
        self.built = built
        self.artifact = BucketArtifact(
            store, f"_{secrets.token_hex(8)}", built.manifest, reused=False
        )

    def publish(self, lease: Lease | None) -> Artifact:
        """Upload the files, then the manifest; returns the artifact of the first to write it.

        Raises:
            StoreWriteError: If another host took this build for dead.
        """
        self._upload_files()
        # The holder of the lease may be about to remove these objects.
        if not (lease and lease.beat()):
            raise self._taken_for_dead()
        try:
            self.store.bucket.create(self._manifest, self._content)
        except ConflictError:  # or the answer to this very request was lost
            artifact = self.artifact
            winner = self.store.unverified(artifact.stage, artifact.key, artifact.fingerprint)
            if winner != artifact:
                self._discard()
                return winner
        try:  # was it taken for dead, and were its objects removed, before it wrote the manifest?
            self.artifact.require_objects(self.store.sizes(self.artifact))
        except CorruptArtifact as error:
            self.store.withdraw(self._manifest, self._content)
            raise self._taken_for_dead() from error
        self.store.copies.adopt(self.built.path, self.artifact)
        return self.artifact

    @property
    def _manifest(self) -> str:
        return f"{self.artifact.prefix.rpartition('/')[0]}/{MANIFEST}"

    @property
    def _content(self) -> bytes:
        record = {"attempt": self.artifact.attempt, "manifest": self.built.manifest}
        return json.dumps(record, ensure_ascii=False).encode()

    def _upload_files(self) -> None:
        def upload(name: str) -> None:
            self.store.bucket.upload(f"{self.artifact.prefix}/{name}", self.built.path / name)

        for _ in each(upload, self.built.manifest["files"]):
            pass

    def _discard(self) -> None:
        """Remove what was uploaded and built: another attempt was published."""
        names = self.built.manifest["files"]
        self.store.bucket.delete(f"{self.artifact.prefix}/{name}" for name in names)
        shutil.rmtree(self.built.path, ignore_errors=True)

    def _taken_for_dead(self) -> StoreWriteError:
        return StoreWriteError(
            f"{self.artifact.address}: this build was taken for dead, since its lease was not "
            "written for too long (was the process suspended?); run again: it is uploaded then"
        )
