"""Removing what nothing uses: artifacts no longer current, and what unfinished attempts left.

Belongs here: what is in use. Does not belong here: how an attempt is removed (`store`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.store.artifacts import Artifact, manifest_content
from react_pipeline.store.durable import CACHE
from react_pipeline.store.errors import CorruptArtifact, MissingArtifact
from react_pipeline.store.folder import COPIES, MANIFEST, SCRATCH, TEMPORARY, throw_away, written_at
from react_pipeline.store.verification import require_files

if TYPE_CHECKING:
    from react_pipeline.store.store import Store

logger = logging.getLogger(__name__)

CLAIMS = ".notes/claims"
"""Notes that say who decides; needless once what they claim is published or pruned."""

_ATTEMPT = re.compile(r".*?/_[0-9a-f]{16}(?=/)")


def prune(store: Store, *, dry_run: bool, keep_seconds: float) -> list[str]:
    """Remove artifacts, unpublished attempts, scratch and caches that nothing uses.

    In use are current artifacts, those that were current or made within `keep_seconds`, and the
    ancestors of all of these; attempts, copies, and scratch that a build may hold for
    `RETENTION_SECONDS`. Where a pointer is damaged, everything of that key is kept and reported. An
    artifact with a damaged manifest may be made from any other, so all are kept. A process whose
    files are removed before it has published them publishes nothing.

    Returns:
        The addresses of what was removed (would be, with `dry_run`).
    """
    from react_pipeline.store.store import RETENTION_SECONDS

    look = store.look()
    times: dict[str, float] = {}
    attempts: dict[str, float] = {}
    published: dict[str, Artifact] = {}
    for entry in look.backend.heads():
        place, _, name = entry.path.rpartition("/")
        if match := _ATTEMPT.match(entry.path):
            attempts[match[0]] = max(attempts.get(match[0], 0), entry.time)
        elif name == MANIFEST:
            times[place] = entry.time
            try:
                published[place] = look.at(place)
            except (CorruptArtifact, MissingArtifact) as error:
                logger.warning("no artifact is pruned: %s, or remove it", error)
    unread = times.keys() - published.keys()  # which may name any attempt next to them
    # A clock ahead dooms nothing: no more time has passed than the newest object shows.
    scratches = map(written_at, store.root.glob(f"{SCRATCH}/*"))
    now = min(time.time(), max([*times.values(), *attempts.values(), *scratches], default=0))
    oldest, expired = now - keep_seconds, now - RETENTION_SECONDS
    removed = []
    for artifact in () if unread else _unused(look, published, times, oldest):
        try:
            if not dry_run and not _remove(store, artifact, oldest):
                break  # it is current again, and so may be its ancestors
        except OSError as error:  # such as a stale handle of NFS
            logger.warning("kept: %s", error)
        else:
            removed.append(artifact.address)
    finished = {artifact.prefix for artifact in published.values()}
    # Whether a process of another host works on an attempt, no lock says.
    for attempt, written in sorted(attempts.items()):
        is_kept = attempt.rpartition("/")[0] in unread
        if not is_kept and attempt not in finished and written <= expired:
            removed.append(store.backend.address(attempt))
            if not dry_run:
                store.backend.discard(attempt)
    for path in _unused_files(store, oldest, expired):
        removed.append(str(path))
        if not dry_run:
            throw_away(path, store.root)
    if not dry_run:
        for claim in list(store.backend.entries(CLAIMS)):
            if claim.time <= oldest:
                store.backend.delete(claim.path)
    return removed


def _unused_files(store: Store, oldest: float, expired: float) -> Iterator[Path]:
    """Yield what this machine has not used since: of caches, and of what builds may still need."""
    for path in sorted(store.root.glob(f"{CACHE}/*/[!.]*")):
        if written_at(path) <= oldest:
            yield path
    limits = {COPIES: expired, TEMPORARY: expired}
    for path in sorted(store.root.glob(f"{SCRATCH}/*")):
        with store.locked(path.name, wait=False) as is_ours:
            if written_at(path) <= (oldest if is_ours else expired):
                yield path
            elif not is_ours:  # a build, which may read copies that it opened long ago
                limits[COPIES] = 0
    for folder, limit in limits.items():
        for path in sorted(store.root.glob(f"{folder}/*")):
            if written_at(path) <= limit:
                yield path


def _unused(
    look: Store,
    published: Mapping[str, Artifact],
    times: Mapping[str, float],
    oldest: float,
) -> Iterator[Artifact]:
    """Yield what was neither current nor made since a time, nor is an ancestor of such; children
    first.
    """
    used: set[str] = set()
    for place, artifact in published.items():
        current = look.pointer(artifact.stage, artifact.key)
        is_damaged = f"{artifact.stage}/{artifact.key}/{current}" not in published  # dooms nothing
        if is_damaged:
            logger.warning(
                "%s: no artifact is current; everything next to it is kept. Materialize it again",
                look.address(artifact.stage, artifact.key),
            )
        if is_damaged or current == artifact.fingerprint or times[place] > oldest:
            used.add(artifact.fingerprint)
    artifacts = {artifact.fingerprint: artifact for artifact in published.values()}
    parents = {one: [*artifact.parents.values()] for one, artifact in artifacts.items()}
    for fingerprint in reversed([*TopologicalSorter(parents).static_order()]):
        if fingerprint in used:
            used.update(parents.get(fingerprint, ()))
        elif fingerprint in artifacts:
            yield artifacts[fingerprint]


def _remove(store: Store, artifact: Artifact, oldest: float) -> bool:
    """Remove an artifact, unless it is used, or was made, again by now; its manifest goes first."""
    content = manifest_content(artifact.manifest)
    path = f"{artifact.place}/{MANIFEST}"

    def is_current() -> bool:
        return store.pointer(artifact.stage, artifact.key) == artifact.fingerprint

    heads = store.backend.heads(artifact.place, MANIFEST)
    if is_current() or any(entry.path == path and entry.time > oldest for entry in heads):
        return False
    if store.read(path) != content:
        return False
    store.backend.delete(path)
    if is_current():
        with suppress(CorruptArtifact):  # another removed its files, too
            require_files(artifact)
            store.backend.create(path, content)
        return False
    store.backend.discard(artifact.prefix)
    return True
