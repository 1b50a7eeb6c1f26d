"""The store in object storage: artifacts as objects, built and read through this machine's disk.

Belongs here: publishing, opening, pruning and verifying objects. Does not belong here: requests
(`bucket`), who builds (`bucket_leases`), the files on this machine (`copies`).

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

import hashlib
import json
import logging
import secrets
import shutil
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from react_pipeline.store.artifacts import (
    CURRENT,
    FORMAT,
    MANIFEST,
    Artifact,
    Inputs,
    manifest_text,
    require_manifest,
    slug_of,
)
from react_pipeline.store.attempts import host_of
from react_pipeline.store.bucket import CLOCKS, SMALL_THREADS, Bucket, ConflictError, Stored, each
from react_pipeline.store.bucket_leases import LEASES, Lease, is_expired, relied_on
from react_pipeline.store.copies import Copies
from react_pipeline.store.durable import CACHE, write_atomically
from react_pipeline.store.errors import (
    CorruptArtifact,
    InputError,
    MissingArtifact,
    StoreWriteError,
)
from react_pipeline.store.file_system import has_locks
from react_pipeline.store.pruning import RETENTION_SECONDS, Published, reap, unused
from react_pipeline.store.store import POLL_SECONDS, Store

logger = logging.getLogger(__name__)

ORPHAN_SECONDS = 3600.0
"""Objects of an upload that never got a manifest are kept for so long after the last of them."""

DAMAGED = ".damaged"
"""Beside the files of an attempt whose bytes were found to differ."""

FORMAT_FILE = "store.json"
NOTES = ".notes"


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

    def open_parent(self, stage: str) -> Artifact:
        """The artifact of a stage that this one was made from, of the same key."""
        return self.store.open(stage, self.key, self.parents[stage])


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
                artifact = self._upload(built, lease)
            self._set_current(artifact)
            return artifact

    def _published(self, inputs: Inputs) -> Artifact | None:
        """The artifact of these inputs if it is there and whole; one that is damaged is removed."""
        path = f"{inputs.stage}/{inputs.key}/{inputs.fingerprint}/{MANIFEST}"
        content = self._read(path)
        if content is None:
            return None
        try:
            artifact = BucketArtifact(self, *self._record(path, content))
            self._require_objects(artifact, self._objects(artifact))
        except CorruptArtifact as error:
            logger.warning("%s; building it again", error)
            self._withdraw(path, content)
            return None
        return artifact

    def _withdraw(self, path: str, content: bytes) -> None:
        """Remove a manifest, unless that of another upload is there by now."""
        if self._read(path) == content:
            self.bucket.delete([path])

    def _objects(self, artifact: BucketArtifact) -> dict[str, int]:
        """Sizes of the objects of an artifact."""
        start = len(artifact.prefix) + 1
        return {stored.path[start:]: stored.size for stored in self.bucket.objects(artifact.prefix)}

    def _require_objects(self, artifact: BucketArtifact, objects: Mapping[str, int]) -> None:
        for name, recorded in artifact.manifest["files"].items():
            if DAMAGED in objects or objects.get(name) != recorded["bytes"]:
                raise CorruptArtifact(
                    f"{artifact.address}: {name} is missing or damaged; rematerialize "
                    f"`{artifact.stage}` for {artifact.key!r}"
                )

    def mark_damaged(self, artifact: BucketArtifact) -> None:
        """Let the next build of an artifact make it again, since its bytes differ."""
        self.bucket.write(f"{artifact.prefix}/{DAMAGED}", b"")

    def _upload(self, built: Artifact, lease: Lease | None) -> Artifact:
        """Upload what the workshop built; the first of several to write the manifest wins."""
        attempt = f"_{secrets.token_hex(8)}"
        artifact = BucketArtifact(self, attempt, built.manifest, reused=False)
        names = list(built.manifest["files"])
        for _ in each(
            lambda name: self.bucket.upload(f"{artifact.prefix}/{name}", built.path / name), names
        ):
            pass
        record = {"attempt": attempt, "manifest": built.manifest}
        content = json.dumps(record, ensure_ascii=False).encode()
        place = artifact.stage, artifact.key, artifact.fingerprint
        path = f"{'/'.join(place)}/{MANIFEST}"
        if not (lease and lease.beat()):  # its holder may be about to remove these objects
            raise _taken_for_dead(artifact)
        try:
            self.bucket.create(path, content)
        except ConflictError:  # or the answer to this very request was lost
            winner = self.unverified(*place)
            if winner != artifact:
                self.bucket.delete(f"{artifact.prefix}/{name}" for name in names)
                shutil.rmtree(built.path, ignore_errors=True)
                return winner
        try:  # was it taken for dead, and were its objects removed, before it wrote the manifest?
            self._require_objects(artifact, self._objects(artifact))
        except CorruptArtifact as error:
            self._withdraw(path, content)
            raise _taken_for_dead(artifact) from error
        self.copies.adopt(built.path, artifact)
        return artifact

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
        content = self._read(path)
        if content is None:
            raise MissingArtifact(
                f"{self.bucket.address(path)}: not there; materialize `{stage}` for {key!r}"
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

    def _read(self, path: str) -> bytes | None:
        """A small object; None if there is none."""
        try:
            return self.bucket.read(path)[0]
        except FileNotFoundError:
            return None

    def pointer(self, stage: str, key: str) -> str | None:
        """As of `Store`."""
        content = self._read(f"{stage}/{key}/{CURRENT}")
        return None if content is None else content.decode(errors="replace").strip()

    def versions(self, stage: str, key: str) -> list[str]:
        """As of `Store`."""
        found = (stored.path.split("/") for stored in self._listing(f"{stage}/{key}"))
        depth = key.count("/") + 3
        return sorted(p[depth - 1] for p in found if len(p) == depth + 1 and p[-1] == MANIFEST)

    def keys(self, stage: str) -> list[str]:
        """As of `Store`."""
        found = (stored.path.split("/") for stored in self._listing(stage))
        return sorted("/".join(path[1:-1]) for path in found if _is_pointer(path))

    def _listing(self, prefix: str) -> Iterator[Stored]:
        return self.bucket.objects(prefix)

    def read_note(self, name: str) -> str | None:
        """As of `Store`."""
        content = self._read(f"{NOTES}/{name}")
        return None if content is None else content.decode(errors="replace")

    def write_note(self, name: str, text: str) -> None:
        """As of `Store`."""
        self.bucket.write(f"{NOTES}/{name}", text.encode())

    def address(self, stage: str, key: str) -> str:
        """As of `Store`."""
        return self.bucket.address(f"{stage}/{key}")

    def verify(self) -> Iterator[tuple[str, CorruptArtifact | None]]:
        """As of `Store`: every object is read from the bucket, and no local copy."""
        for stored in self.bucket.objects():
            if stored.path.rpartition("/")[2] != MANIFEST:
                continue
            address = self.bucket.address(stored.path.rpartition("/")[0])
            content = self._read(stored.path)
            if content is None:  # pruned meanwhile
                continue
            try:
                self._verify(BucketArtifact(self, *self._record(stored.path, content)))
            except CorruptArtifact as error:
                yield address, error
            else:
                yield address, None

    def _verify(self, artifact: BucketArtifact) -> None:
        self._require_objects(artifact, self._objects(artifact))
        for name, recorded in artifact.manifest["files"].items():
            if self.bucket.download(f"{artifact.prefix}/{name}", None) != recorded["sha256"]:
                self.mark_damaged(artifact)
                raise CorruptArtifact(
                    f"{artifact.address}: the bytes of {name} differ from the manifest; "
                    f"rematerialize `{artifact.stage}` for {artifact.key!r}"
                )

    def prune(self, *, dry_run: bool = False, keep_seconds: float = RETENTION_SECONDS) -> list[str]:
        """As of `Store`: the manifest of an artifact goes first, under the lease of its build. Local
        copies above the limit are evicted.
        """
        if not dry_run:
            self.copies.evict(self.copies.limit_bytes)
        with self.locked("prune"):
            return [
                *self._prune(dry_run=dry_run, keep_seconds=keep_seconds),
                *self._prune_workshop(dry_run=dry_run, keep_seconds=keep_seconds),
            ]

    def _prune(self, *, dry_run: bool, keep_seconds: float) -> list[str]:
        # In this order: what is published or leased after one of these looks is seen by none of
        # the later ones.
        look = self.look()
        now = self.bucket.now()
        published = []
        for stored, artifact in look.artifacts():
            place = artifact.stage, artifact.key
            current = look.pointer(*place) or ""
            if current not in look.versions(*place):
                current = ""  # a damaged pointer dooms nothing
            age = now - max(stored.time, look.since(*place) or now)
            is_recent = age.total_seconds() < keep_seconds
            published.append(Published(artifact, artifact.manifest, current, is_recent))
        removed = []
        for doomed in unused(published, relied_on(self.bucket)):
            if dry_run or self._remove(doomed):
                removed.append(doomed.address)
        for prefix, paths in look.orphans(now).items():
            if dry_run or self._remove_orphan(prefix, paths):
                removed.append(self.bucket.address(prefix))
        if not dry_run:
            self._remove_expired(now)
        return removed

    def _remove_expired(self, now: datetime) -> None:
        """Remove leases and clocks of processes that ended."""
        for lease in list(self.bucket.objects(LEASES)):
            if is_expired(lease, now):
                with self.try_lock(lease.path.removeprefix(f"{LEASES}/")):
                    pass  # taken over, and given back
        clocks = list(self.bucket.objects(CLOCKS))
        self.bucket.delete(
            [c.path for c in clocks if (now - c.time).total_seconds() > ORPHAN_SECONDS]
        )

    def _remove(self, artifact: BucketArtifact) -> bool:
        """Remove an artifact, unless a build uses it or it became current meanwhile."""
        slug = slug_of(artifact.stage, artifact.key, artifact.fingerprint)
        place = artifact.prefix.rpartition("/")[0]
        with self.try_lock(slug) as held:
            if not held or self.pointer(artifact.stage, artifact.key) == artifact.fingerprint:
                return False
            self.bucket.delete([f"{place}/{MANIFEST}"])
            self.bucket.delete([stored.path for stored in self.bucket.objects(place)])
        return True

    def _remove_orphan(self, prefix: str, paths: list[str]) -> bool:
        """Remove the objects of an upload, unless its artifact is built or was published."""
        stage, *key, fingerprint, attempt = prefix.split("/")
        with self.try_lock(slug_of(stage, "/".join(key), fingerprint)) as held:
            try:
                published = self.unverified(stage, "/".join(key), fingerprint).attempt == attempt
            except MissingArtifact:
                published = False
            except CorruptArtifact:
                published = True
            if not held or published:
                return False
            self.bucket.delete(paths)
        return True

    def _prune_workshop(self, *, dry_run: bool, keep_seconds: float) -> list[str]:
        """What was built here and never uploaded, and what dead builds left."""
        removed = []
        for manifest in self._workshop.root.glob(f"[!.]*/**/{MANIFEST}"):
            folder = manifest.parent
            stage, *key, fingerprint = folder.relative_to(self._workshop.root).parts
            with self._workshop.try_lock(
                f"lease--{slug_of(stage, '/'.join(key), fingerprint)}"
            ) as f:
                if f and time.time() - folder.stat().st_mtime > keep_seconds:
                    removed.append(str(folder))
                    if not dry_run:
                        shutil.rmtree(folder, ignore_errors=True)
        if self._workshop.staging.is_dir():
            removed += reap(self._workshop, dry_run=dry_run)
        return removed

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

    def look(self) -> BucketLook:
        """A view of one moment, by a listing."""
        return BucketLook(self.bucket.url, self.root, self.copies.limit_bytes)

    def _require_format(self) -> None:
        """Refuse a store of another format; asked once a process."""
        url = self.bucket.url
        if url in _checked:
            return
        content = json.dumps({"format": FORMAT}).encode()
        try:
            found = self.bucket.read(FORMAT_FILE)[0]
        except FileNotFoundError:
            with suppress(ConflictError):
                self.bucket.create(FORMAT_FILE, content)
            found = content
        if found != content:
            raise InputError(
                f"{url}: not a store of format {FORMAT}; name an empty prefix in `store`, or use "
                "the version that wrote it"
            )
        _checked.add(url)


_checked: set[str] = set()
"""URLs whose format this process has compared."""


class BucketLook(BucketStore):
    """A store at one moment: a listing, and requests only for small objects that changed since the
    last look of this machine.
    """

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

    def _read(self, path: str) -> bytes | None:
        return self._contents.get(path)

    def _listing(self, prefix: str) -> Iterator[Stored]:
        start = f"{prefix}/"
        return (stored for path, stored in self._stored.items() if path.startswith(start))

    def versions(self, stage: str, key: str) -> list[str]:
        """As of `Store`."""
        versions = self._versions.get(f"{stage}/{key}", {})
        return sorted(version for version, objects in versions.items() if MANIFEST in objects)

    @cached_property
    def _keys(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for path in map(_split, self._stored):
            if _is_pointer(path):
                keys.setdefault(path[0], []).append("/".join(path[1:-1]))
        return keys

    def keys(self, stage: str) -> list[str]:
        """As of `Store`."""
        return sorted(self._keys.get(stage, ()))

    def open(self, stage: str, key: str, fingerprint: str) -> Artifact:
        """As of `Store`; files that are missing or of another size are noticed."""
        artifact = self.unverified(stage, key, fingerprint)
        self._require_objects(artifact, self._objects(artifact))
        return artifact

    def unverified(self, stage: str, key: str, fingerprint: str) -> BucketArtifact:
        """As of `Store`, parsed once in this process for as long as the object is the same."""
        path = f"{stage}/{key}/{fingerprint}/{MANIFEST}"
        version = str(self._stored[path].version) if path in self._stored else ""
        known = _parsed.get((self.bucket.url, path))
        if known and known[0] == version:
            return BucketArtifact(self, *known[1:])
        artifact = super().unverified(stage, key, fingerprint)
        _parsed[self.bucket.url, path] = version, artifact.attempt, artifact.manifest
        return artifact

    def _objects(self, artifact: BucketArtifact) -> dict[str, int]:
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

    def orphans(self, now: datetime) -> dict[str, list[str]]:
        """Objects of uploads that no manifest names, by their prefix."""
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
            if (now - max(stored.time for stored in objects)).total_seconds() > ORPHAN_SECONDS
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


def _taken_for_dead(artifact: BucketArtifact) -> StoreWriteError:
    return StoreWriteError(
        f"{artifact.address}: this build was taken for dead, since its lease was not written for "
        "too long (was the process suspended?); run again: it is uploaded then"
    )


def _place_of(path: str) -> tuple[str, str, str]:
    """`<stage>/<key>`, fingerprint and name of an object of an artifact; else the last two are ""."""
    parts = _split(path)
    end = next((n for n, part in enumerate(parts) if part.startswith("_")), len(parts) - 1)
    if parts[0].startswith(".") or end < 3 or (end == len(parts) - 1 and parts[-1] != MANIFEST):
        return path, "", ""
    return "/".join(parts[: end - 1]), parts[end - 1], "/".join(parts[end:])


def _is_pointer(parts: Sequence[str]) -> bool:
    """Whether a path is `<stage>/<key>/current`."""
    inside = any(part.startswith((".", "_")) for part in parts)
    return parts[-1] == CURRENT and 3 <= len(parts) <= 4 and not inside


def _split(path: str) -> list[str]:
    return path.split("/")
