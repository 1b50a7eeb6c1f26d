"""Pruning of object storage: artifacts that nothing uses, uploads without a manifest, leases and
clocks of processes that ended.

Does not belong here: what is in use (`store.pruning`).
"""

from __future__ import annotations

import shutil
import time
from datetime import datetime
from typing import TYPE_CHECKING

from react_pipeline.extensions.buckets.bucket import CLOCKS
from react_pipeline.extensions.buckets.bucket_artifact import BucketArtifact
from react_pipeline.extensions.buckets.leases import LEASES, is_expired, relied_on
from react_pipeline.store import (
    MANIFEST,
    CorruptArtifact,
    MissingArtifact,
    Published,
    Store,
    reap,
    slug_of,
    unused,
)

if TYPE_CHECKING:
    from react_pipeline.extensions.buckets.bucket_store import BucketStore

ORPHAN_SECONDS = 3600.0
"""Objects of an upload that never got a manifest are kept for so long after the last of them."""


def prune_objects(store: BucketStore, *, dry_run: bool, keep_seconds: float) -> list[str]:
    """Remove objects; returns addresses of artifacts and uploads.

    A manifest is removed before its objects, under the lease of its build.
    """
    # In this order: what is published or leased after one of these looks is seen by none of the
    # later ones.
    look = store.look()
    now = store.bucket.now()
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
    for doomed in unused(published, relied_on(store.bucket)):
        if dry_run or _remove(store, doomed):
            removed.append(doomed.address)
    for prefix, paths in look.orphans(now, ORPHAN_SECONDS).items():
        if dry_run or _remove_orphan(store, prefix, paths):
            removed.append(store.bucket.address(prefix))
    if not dry_run:
        _remove_expired(store, now)
    return removed


def _remove_expired(store: BucketStore, now: datetime) -> None:
    """Remove leases and clocks of processes that ended."""
    for lease in list(store.bucket.objects(LEASES)):
        if is_expired(lease, now):
            with store.try_lock(lease.path.removeprefix(f"{LEASES}/")):
                pass  # taken over, and given back
    clocks = list(store.bucket.objects(CLOCKS))
    store.bucket.delete([c.path for c in clocks if (now - c.time).total_seconds() > ORPHAN_SECONDS])


def _remove(store: BucketStore, artifact: BucketArtifact) -> bool:
    """Remove an artifact, unless a build uses it or it became current meanwhile."""
    slug = slug_of(artifact.stage, artifact.key, artifact.fingerprint)
    place = artifact.prefix.rpartition("/")[0]
    with store.try_lock(slug) as held:
        if not held or store.pointer(artifact.stage, artifact.key) == artifact.fingerprint:
            return False
        store.bucket.delete([f"{place}/{MANIFEST}"])
        store.bucket.delete([stored.path for stored in store.bucket.objects(place)])
    return True


def _remove_orphan(store: BucketStore, prefix: str, paths: list[str]) -> bool:
    """Remove the objects of an upload, unless its artifact is built or was published."""
    stage, *key, fingerprint, attempt = prefix.split("/")
    with store.try_lock(slug_of(stage, "/".join(key), fingerprint)) as held:
        try:
            published = store.unverified(stage, "/".join(key), fingerprint).attempt == attempt
        except MissingArtifact:
            published = False
        except CorruptArtifact:
            published = True
        if not held or published:
            return False
        store.bucket.delete(paths)
    return True


def prune_workshop(workshop: Store, *, dry_run: bool, keep_seconds: float) -> list[str]:
    """Remove what was built here and never uploaded, and what dead builds left; returns paths."""
    removed = []
    for manifest in workshop.root.glob(f"[!.]*/**/{MANIFEST}"):
        folder = manifest.parent
        stage, *key, fingerprint = folder.relative_to(workshop.root).parts
        with workshop.try_lock(f"lease--{slug_of(stage, '/'.join(key), fingerprint)}") as held:
            if held and time.time() - folder.stat().st_mtime > keep_seconds:
                removed.append(str(folder))
                if not dry_run:
                    shutil.rmtree(folder, ignore_errors=True)
    if workshop.staging.is_dir():
        removed += reap(workshop, dry_run=dry_run)
    return removed
