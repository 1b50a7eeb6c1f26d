"""The store in object storage: artifacts as objects, built and read through this machine's disk.

Belongs here: building, opening and listing. Does not belong here: requests (`bucket`), one artifact
(`bucket_artifact`), publishing (`upload`), a view of one moment (`look`), what may be removed
(`bucket_pruning`), who builds (`leases`), the files on this machine (`copies`).

Layout below the URL, where an attempt is one upload and shares no object with another::

    <stage>/<key>/<fingerprint>/<attempt>/...           the files of an artifact
    <stage>/<key>/<fingerprint>/manifest.json           names the attempt; written only if absent
    <stage>/<key>/current                               the fingerprint that downstream steps read
    .leases/<name>                                      who builds; written again every few seconds
    .clock/<host>-<process id>                          written to learn the server's time
    .notes/<name>                                       what can be lost without harm

An artifact is built in a local store, uploaded, and becomes visible with its manifest. A manifest
is removed before its objects. Locks, caches and queues stay in `root`, a folder of this machine.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.buckets.bucket import (
    Bucket,
    ConflictError,
    Stored,
)
from react_pipeline.extensions.buckets.bucket_artifact import BucketArtifact
from react_pipeline.extensions.buckets.bucket_pruning import prune_objects, prune_workshop
from react_pipeline.extensions.buckets.copies import Copies
from react_pipeline.extensions.buckets.leases import Lease, is_expired
from react_pipeline.extensions.buckets.upload import Upload
from react_pipeline.store import (
    CURRENT,
    FORMAT,
    MANIFEST,
    POLL_SECONDS,
    RETENTION_SECONDS,
    Artifact,
    CorruptArtifact,
    InputError,
    Inputs,
    MissingArtifact,
    Store,
    has_locks,
    host_of,
    require_manifest,
    slug_of,
)

if TYPE_CHECKING:
    from react_pipeline.extensions.buckets.look import BucketLook

logger = logging.getLogger(__name__)

FORMAT_FILE = "store.json"
NOTES = ".notes"


class _Workshop(Store):
    """The local store in which artifacts are built before they are uploaded; it has no pointers."""

    def _set_current(self, artifact: Artifact) -> None:
        pass


class BucketStore(Store):
    """The prefix of a bucket in which artifacts are published."""

    def __init__(self, url: str, root: Path, cache_bytes: float) -> None:
        """Open a store; no request is made before it is used.

        Args:
            root: Folder of this machine for builds, local copies, locks and queues.
            cache_bytes: What local copies may take.
        """
        self.root = root.resolve()
        self.bucket = Bucket(url)
        self.copies = Copies(self.root / "copies", cache_bytes)
        self._workshop = _Workshop(self.root / "building")

    def build(
        self, inputs: Inputs, write: Callable[[Path], Mapping[str, Any]], *, resumable: bool = False
    ) -> Artifact:
        """As of `Store`. What was built and could not be uploaded is uploaded by the next build."""
        self._require_format()
        parents = (parent.fingerprint for parent in inputs.parents.values())
        slug = slug_of(inputs.stage, inputs.key, inputs.fingerprint)
        with self._leased(slug, {inputs.fingerprint, *parents}) as lease:
            artifact = self._published(inputs)
            if artifact is None:
                built = self._workshop.build(inputs, write, resumable=resumable)
                artifact = Upload(self, built).publish(lease)
            self._set_current(artifact)
            return artifact

    def is_begun(self, inputs: Inputs) -> bool:
        """As of `Store`, on this machine."""
        versions = self.versions(inputs.stage, inputs.key)
        return inputs.fingerprint in versions or self._workshop.is_begun(inputs)

    def leave(self, inputs: Inputs, scratch: Path) -> None:
        """As of `Store`, on this machine."""
        self._workshop.leave(inputs, scratch)

    def _published(self, inputs: Inputs) -> Artifact | None:
        """The artifact of these inputs if it is there and whole; one that is damaged is removed."""
        path = f"{inputs.stage}/{inputs.key}/{inputs.fingerprint}/{MANIFEST}"
        content = self.read(path)
        if content is None:
            return None
        try:
            artifact = BucketArtifact(self, *self._record(path, content))
            artifact.require_objects(self.sizes(artifact))
        except CorruptArtifact as error:
            logger.warning("%s; building it again", error)
            self.withdraw(path, content)
            return None
        return artifact

    def withdraw(self, path: str, content: bytes) -> None:
        """Remove a manifest, unless that of another upload is there by now."""
        if self.read(path) == content:
            self.bucket.delete([path])

    def sizes(self, artifact: BucketArtifact) -> dict[str, int]:
        """Sizes of the objects of an artifact."""
        start = len(artifact.prefix) + 1
        return {stored.path[start:]: stored.size for stored in self.bucket.objects(artifact.prefix)}

    def _set_current(self, artifact: Artifact) -> None:
        path = f"{artifact.stage}/{artifact.key}/{CURRENT}"
        fingerprint = artifact.fingerprint.encode()
        while True:
            try:
                content, stored = self.bucket.read(path)
                if content != fingerprint:
                    self.bucket.replace(path, fingerprint, stored.version)
                return
            except FileNotFoundError:
                with suppress(ConflictError):
                    self.bucket.create(path, fingerprint)
                    return
            except ConflictError:  # another build was faster; it is read again
                continue

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """A published artifact; each file is checked against the manifest when it is asked for."""
        return self.unverified(stage, key, fingerprint)

    def unverified(self, stage: str, key: str, fingerprint: str) -> BucketArtifact:
        """As of `Store`."""
        path = f"{stage}/{key}/{fingerprint}/{MANIFEST}"
        content = self.read(path)
        if content is None:
            raise MissingArtifact(
                f"{self.bucket.address(path)}: not there; materialize `{stage}` for {key!r}",
                (stage, key),
            )
        return BucketArtifact(self, *self._record(path, content))

    def _record(self, path: str, content: bytes) -> tuple[str, Mapping[str, Any]]:
        """The attempt and the manifest in a manifest object."""
        address = self.bucket.address(path)
        stage, *_, fingerprint, _ = path.split("/")
        try:
            record = json.loads(content)
            attempt, manifest = record["attempt"], record["manifest"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CorruptArtifact(
                f"{address}: unreadable ({error}); rematerialize `{stage}`"
            ) from error
        require_manifest(manifest, stage, fingerprint, address)
        return str(attempt), manifest

    def read(self, path: str) -> bytes | None:
        """A small object; None if there is none."""
        try:
            return self.bucket.read(path)[0]
        except FileNotFoundError:
            return None

    def pointer(self, stage: str, key: str) -> str | None:
        """As of `Store`."""
        content = self.read(f"{stage}/{key}/{CURRENT}")
        return None if content is None else content.decode(errors="replace").strip()

    def versions(self, stage: str, key: str) -> list[str]:
        """As of `Store`."""
        paths = (stored.path.split("/") for stored in self.listing(f"{stage}/{key}"))
        depth = key.count("/") + 3
        return sorted(p[depth - 1] for p in paths if len(p) == depth + 1 and p[-1] == MANIFEST)

    def keys(self, stage: str) -> list[str]:
        """As of `Store`."""
        paths = (stored.path for stored in self.listing(stage))
        return sorted(
            path.removeprefix(f"{stage}/").removesuffix(f"/{CURRENT}")
            for path in paths
            if is_pointer(path)
        )

    def listing(self, prefix: str) -> Iterator[Stored]:
        """Objects below a prefix."""
        return self.bucket.objects(prefix)

    def read_note(self, name: str) -> str | None:
        """As of `Store`."""
        content = self.read(f"{NOTES}/{name}")
        return None if content is None else content.decode(errors="replace")

    def write_note(self, name: str, text: str) -> None:
        """As of `Store`."""
        self.bucket.write(f"{NOTES}/{name}", text.encode())

    def create_note(self, name: str, text: str) -> bool:
        """As of `Store`."""
        try:
            self.bucket.create(f"{NOTES}/{name}", text.encode())
        except ConflictError:
            return False
        return True

    def address(self, stage: str, key: str) -> str:
        """As of `Store`."""
        return self.bucket.address(f"{stage}/{key}")

    def verify(self) -> Iterator[tuple[str, CorruptArtifact | None]]:
        """As of `Store`: every object is read from the bucket, and no local copy."""
        for stored in self.bucket.objects():
            if stored.path.rpartition("/")[2] != MANIFEST:
                continue
            address = self.bucket.address(stored.path.rpartition("/")[0])
            content = self.read(stored.path)
            if content is None:  # pruned meanwhile
                continue
            try:
                BucketArtifact(self, *self._record(stored.path, content)).verify()
            except CorruptArtifact as error:
                yield address, error
            else:
                yield address, None

    def prune(self, *, dry_run: bool = False, keep_seconds: float = RETENTION_SECONDS) -> list[str]:
        """As of `Store`: the manifest of an artifact goes first, under the lease of its build.
        Local copies above the limit are evicted.
        """
        if not dry_run:
            self.copies.evict(self.copies.limit_bytes)
        with self.locked("prune"):
            return [
                *prune_objects(self, dry_run=dry_run, keep_seconds=keep_seconds),
                *prune_workshop(self._workshop, dry_run=dry_run, keep_seconds=keep_seconds),
            ]

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """As of `Store`, among all hosts, by a lease."""
        with self._leased(name, (), wait=wait) as lease:
            yield lease is not None

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """As of `Store`."""
        with self._leased(name, (), wait=False) as lease:
            yield lease is not None

    @contextmanager
    def _leased(
        self, name: str, relies_on: set[str] | tuple[()], *, wait: bool = True
    ) -> Iterator[Lease | None]:
        """Hold a lease; yields None if it is not held."""
        with self._workshop.locked(f"lease--{name}", wait=wait) as locked:
            alone = locked and has_locks(self._workshop.root)
            lease = Lease(self.bucket, name, self._place, relies_on)
            is_busy = not (wait or locked) and has_locks(self._workshop.root)
            held = not is_busy and lease.take(alone=alone)
            if wait and not held:
                logger.info("waiting: another run holds %s", self.bucket.address(lease.path))
            while wait and not held:
                time.sleep(POLL_SECONDS)
                held = lease.take(alone=alone)
            if not held:
                yield None
                return
            with lease.kept():
                yield lease

    @property
    def _place(self) -> str:
        """Identifies the folder whose locks the builders of this machine share."""
        root = self._workshop.root
        return f"{host_of(root)}-{root.stat().st_ino}"

    def is_building(self, stage: str, key: str, fingerprint: str) -> bool:
        """As of `Store`."""
        lease = Lease(self.bucket, slug_of(stage, key, fingerprint), "")
        try:
            _, stored = self.bucket.read(lease.path)
        except FileNotFoundError:
            return False
        return not is_expired(stored, self.bucket.now())

    def require_usable(self) -> None:
        """As of `Store`: access, and conditional writes."""
        self.bucket.brief.require_conditional_writes()

    def look(self) -> BucketLook:
        """As of `Store`, by a listing."""
        from react_pipeline.extensions.buckets.look import BucketLook  # a store too

        return BucketLook(self.bucket.url, self.root, self.copies.limit_bytes)

    def _require_format(self) -> None:
        """Refuse a store of another format; asked once a process."""
        url = self.bucket.url
        if url in _checked:
            return
        content = json.dumps({"format": FORMAT}).encode()
        try:
            marker = self.bucket.read(FORMAT_FILE)[0]
        except FileNotFoundError:
            with suppress(ConflictError):
                self.bucket.create(FORMAT_FILE, content)
            marker = content
        if marker != content:
            raise InputError(
                f"{url}: not a store of format {FORMAT}; name an empty prefix in `store`, or use "
                "the version that wrote it"
            )
        _checked.add(url)


_checked: set[str] = set()
"""URLs whose format this process has compared."""


def is_pointer(path: str) -> bool:
    """Whether a path is `<stage>/<key>/current`."""
    parts = path.split("/")
    inside = any(part.startswith((".", "_")) for part in parts)
    return parts[-1] == CURRENT and 3 <= len(parts) <= 4 and not inside
