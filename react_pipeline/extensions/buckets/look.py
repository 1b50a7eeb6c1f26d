"""Looks at object storage: a listing of one moment.

Belongs here: what a listing and small objects say. Does not belong here: anything that reads files
of an artifact.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from react_pipeline.extensions.buckets.bucket import SMALL_THREADS, Bucket, Stored, each
from react_pipeline.extensions.buckets.bucket_artifact import BucketArtifact
from react_pipeline.extensions.buckets.bucket_store import NOTES, BucketStore, is_pointer
from react_pipeline.store import (
    CACHE,
    CURRENT,
    MANIFEST,
    Artifact,
    CorruptArtifact,
    MissingArtifact,
    SourceUnavailable,
)

logger = logging.getLogger(__name__)


LOOK_SECONDS = 10.0
"""How long a look waits for the server, and the last pause between tries as long again: ticks are
cut off after 60 seconds, and those that go on nevertheless keep the code server from answering
Dagster, which then ends it.
"""


@dataclass(frozen=True)
class _Brief(Bucket):
    """The bucket of one look: a server that is away is waited for once, not for each object."""

    retry_seconds: float = LOOK_SECONDS
    faults: list[SourceUnavailable] = field(default_factory=list)

    @contextmanager
    def _named(self, path: str) -> Iterator[tuple[Any, Any]]:
        if self.faults:
            raise self.faults[0]
        try:
            with super()._named(path) as named:
                yield named
        except SourceUnavailable as error:
            self.faults.append(error)
            raise


class BucketLook(BucketStore):
    """A store at one moment: a listing, and requests only for small objects that changed since the
    last look of this machine.
    """

    def __init__(self, url: str, root: Path, cache_bytes: float) -> None:
        """As of `BucketStore`."""
        super().__init__(url, root, cache_bytes)
        self.bucket = _Brief(url)

    @cached_property
    def _stored(self) -> dict[str, Stored]:
        return {stored.path: stored for stored in self.bucket.all_objects()}

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
        contents = {
            stored.path: content for stored in small if (content := self._pointer_by_tag(stored))
        }
        rest = [stored for stored in small if stored.path not in contents]
        return contents | contents_of(self.bucket, rest, self.root / CACHE / "objects.db")

    def _pointer_by_tag(self, pointer: Stored) -> bytes | None:
        """The content of a pointer, which most servers describe by its MD5."""
        place, _, name = pointer.path.rpartition("/")
        for fingerprint in self._versions.get(place, ()) if name == CURRENT else ():
            md5 = hashlib.md5(fingerprint.encode(), usedforsecurity=False).hexdigest()
            if pointer.version.get("e_tag", "").strip('"') == md5:
                return fingerprint.encode()
        return None

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

    @cached_property
    def _keys(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for path in self._stored:
            if is_pointer(path):
                stage, _, place = path.partition("/")
                keys.setdefault(stage, []).append(place.rpartition("/")[0])
        return keys

    def keys(self, stage: str) -> list[str]:
        """As of `Store`."""
        return sorted(self._keys.get(stage, ()))

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """As of `Store`; files that are missing or of another size are noticed."""
        artifact = self.unverified(stage, key, fingerprint)
        artifact.require_objects(self.sizes(artifact))
        return artifact

    def unverified(self, stage: str, key: str, fingerprint: str) -> BucketArtifact:
        """As of `Store`, parsed once in this process for as long as the object is the same."""
        path = f"{stage}/{key}/{fingerprint}/{MANIFEST}"
        version = str(self._stored[path].version) if path in self._stored else ""
        parsed = _parsed.get((self.bucket.url, path))
        if parsed and parsed[0] == version:
            return BucketArtifact(self, *parsed[1:])
        artifact = super().unverified(stage, key, fingerprint)
        _parsed[self.bucket.url, path] = version, artifact.attempt, artifact.manifest
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


_parsed: dict[tuple[str, str], tuple[str, str, Mapping[str, Any]]] = {}
"""Version, attempt and manifest of the manifests that this process has read, by URL and path."""


def contents_of(bucket: Bucket, objects: Sequence[Stored], cache: Path) -> dict[str, bytes]:
    """The contents of small objects; each version is requested once by this machine."""
    versions = {stored.path: str(stored.version) for stored in objects}
    cache.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(cache, timeout=60)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS objects (path PRIMARY KEY, version, content)")
        rows = database.execute("SELECT path, version, content FROM objects").fetchall()
    contents = {path: text for path, version, text in rows if versions.get(path) == version}

    def request(path: str) -> tuple[str, bytes] | None:
        try:
            content, stored = bucket.read(path)
        except FileNotFoundError:  # removed meanwhile
            return None
        versions[path] = str(stored.version)
        return path, content

    new = dict(filter(None, each(request, versions.keys() - contents.keys(), SMALL_THREADS)))
    gone = [(path,) for path, *_ in rows if path not in versions]
    with closing(sqlite3.connect(cache, timeout=60)) as database, database:
        database.executemany("DELETE FROM objects WHERE path = ?", gone)
        database.executemany(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?)",
            [(path, versions[path], content) for path, content in new.items()],
        )
    return contents | new


def _place_of(path: str) -> tuple[str, str, str]:
    """`<stage>/<key>`, fingerprint and name of an object of an artifact; else the last two
    are "".
    """
    parts = path.split("/")
    end = next((n for n, part in enumerate(parts) if part.startswith("_")), len(parts) - 1)
    if parts[0].startswith(".") or end < 3 or (end == len(parts) - 1 and parts[-1] != MANIFEST):
        return path, "", ""
    return "/".join(parts[: end - 1]), parts[end - 1], "/".join(parts[end:])
