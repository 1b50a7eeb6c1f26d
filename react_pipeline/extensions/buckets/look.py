"""Looks at object storage: a listing of one moment.

Belongs here: what a listing and small objects say. Does not belong here: anything that reads files
of an artifact.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property

from react_pipeline.extensions.buckets.bucket import SMALL_THREADS, Bucket, Stored, Version, each
from react_pipeline.extensions.buckets.bucket_artifact import BucketArtifact
from react_pipeline.extensions.buckets.bucket_store import NOTES, BucketStore
from react_pipeline.store import (
    CURRENT,
    MANIFEST,
    Artifact,
    CorruptArtifact,
    MissingArtifact,
)

logger = logging.getLogger(__name__)


class BucketLook(BucketStore):
    """A store at one moment: a listing, and requests only for small objects that changed since the
    last look of this process.
    """

    @cached_property
    def _stored(self) -> dict[str, Stored]:
        return {stored.path: stored for stored in self.bucket.objects()}

    @cached_property
    def _versions(self) -> dict[str, dict[str, dict[str, Stored]]]:
        """Objects of each version of `<stage>/<key>`, by their path below it."""
        versions: dict[str, dict[str, dict[str, Stored]]] = {}
        for path, stored in self._stored.items():
            place, fingerprint, name = _place_of(path)
            if fingerprint:
                versions.setdefault(place, {}).setdefault(fingerprint, {})[name] = stored
        return versions

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        small = [
            stored
            for path, stored in self._stored.items()
            if path.endswith((f"/{MANIFEST}", f"/{CURRENT}")) or path.startswith(f"{NOTES}/")
        ]
        return contents_of(self.bucket, small)

    def read(self, path: str) -> bytes | None:
        """As of `BucketStore`."""
        return self._contents.get(path)

    def listing(self, prefix: str) -> Iterator[Stored]:
        """As of `BucketStore`."""
        start = f"{prefix}/"
        return (stored for path, stored in self._stored.items() if path.startswith(start))

    def versions(self, stage: str, key: str) -> list[str]:
        """As of `Store`."""
        versions = self._versions.get(f"{stage}/{key}", {})
        return sorted(version for version, objects in versions.items() if MANIFEST in objects)

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """As of `Store`; files that are missing or of another size are noticed."""
        artifact = self.unverified(stage, key, fingerprint)
        artifact.require_objects(self.sizes(artifact))
        return artifact

    def sizes(self, artifact: BucketArtifact) -> dict[str, int]:
        """As of `BucketStore`."""
        objects = self._versions[f"{artifact.stage}/{artifact.key}"][artifact.fingerprint]
        start = f"{artifact.attempt}/"
        return {
            name.removeprefix(start): stored.size
            for name, stored in objects.items()
            if name.startswith(start)
        }

    def artifacts(self) -> Iterator[tuple[Stored, BucketArtifact]]:
        """All published artifacts with their manifests; damaged ones are reported."""
        for place, versions in self._versions.items():
            stage, _, key = place.partition("/")
            for fingerprint, objects in versions.items():
                if MANIFEST in objects:
                    try:
                        yield objects[MANIFEST], self.unverified(stage, key, fingerprint)
                    except (CorruptArtifact, MissingArtifact) as error:
                        logger.warning("kept: %s", error)

    def since(self, stage: str, key: str) -> datetime | None:
        """When the pointer of a key was written."""
        stored = self._stored.get(f"{stage}/{key}/{CURRENT}")
        return stored.time if stored else None

    def orphans(self, now: datetime, after_seconds: float) -> dict[str, list[str]]:
        """Objects of uploads that no manifest names, by their prefix; an upload may go on until so
        long after its last object.
        """
        uploads: dict[str, list[Stored]] = defaultdict(list)
        named = {artifact.prefix for _, artifact in self.artifacts()}
        for place, versions in self._versions.items():
            for fingerprint, objects in versions.items():
                for name, stored in objects.items():
                    prefix = f"{place}/{fingerprint}/{name.partition('/')[0]}"
                    if name.startswith("_") and prefix not in named:
                        uploads[prefix].append(stored)
        return {
            prefix: [stored.path for stored in objects]
            for prefix, objects in uploads.items()
            if (now - max(stored.time for stored in objects)).total_seconds() > after_seconds
        }


_read: dict[tuple[str, str], tuple[Version, bytes]] = {}
"""Version and content of the small objects that this process has read, by URL and path."""


def contents_of(bucket: Bucket, objects: Sequence[Stored]) -> dict[str, bytes]:
    """The contents of small objects; a process requests each version once."""

    def request(described: Stored) -> tuple[str, bytes] | None:
        version, content = _read.get((bucket.url, described.path), ({}, b""))
        if version != described.version:
            try:
                content, stored = bucket.read(described.path)
            except FileNotFoundError:  # removed meanwhile
                return None
            _read[bucket.url, described.path] = stored.version, content
        return described.path, content

    return dict(filter(None, each(request, objects, SMALL_THREADS)))


def _place_of(path: str) -> tuple[str, str, str]:
    """`<stage>/<key>`, fingerprint and name of an object of an artifact; for other objects the last
    two are "".
    """
    parts = path.split("/")
    end = next((n for n, part in enumerate(parts) if part.startswith("_")), len(parts) - 1)
    if parts[0].startswith(".") or end < 3 or (end == len(parts) - 1 and parts[-1] != MANIFEST):
        return path, "", ""
    return "/".join(parts[: end - 1]), parts[end - 1], "/".join(parts[end:])
