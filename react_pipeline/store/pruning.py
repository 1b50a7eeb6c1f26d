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
from typing import TYPE_CHECKING

from react_pipeline.store.artifacts import Artifact, manifest_content
from react_pipeline.store.durable import CACHE
from react_pipeline.store.errors import CorruptArtifact, MissingArtifact
from react_pipeline.store.folder import COPIES, MANIFEST, SCRATCH, TEMPORARY, throw_away, written_at

if TYPE_CHECKING:
    from react_pipeline.store.store import Store

logger = logging.getLogger(__name__)

RETENTION_SECONDS = 7 * 86_400.0
"""Longer than a build takes: what it reads was current when it began, and it writes to its scratch
meanwhile.
"""

_ATTEMPT = re.compile(r".*?/_[0-9a-f]{16}(?=/)")


def prune(store: Store, *, dry_run: bool, keep_seconds: float) -> list[str]:
    """Remove artifacts, unpublished attempts, scratch and caches that nothing uses.

    In use are current artifacts, those that were current or made within `keep_seconds`, and the
    ancestors of all of these; caches used within that time; and attempts, copies, and scratch of
    the last `RETENTION_SECONDS`, which a build may hold, maybe on another host. Where a pointer is
    damaged, everything of that key is kept and reported. An artifact with a damaged manifest may be
    made from any other, so all are kept. A process whose files are removed before it has published
    them publishes nothing.

    Returns:
        The addresses of what was removed (would be, with `dry_run`).
    """
    look = store.look()
    times: dict[str, float] = {}
    attempts: dict[str, float] = {}
    published: dict[str, Artifact] = {}
    for entry in look.backend.entries(until=MANIFEST):
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
    now = min(time.time(), max([*times.values(), *attempts.values()], default=0))
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
    for attempt, written in sorted(attempts.items()):
        is_kept = attempt.rpartition("/")[0] in unread
        if not is_kept and attempt not in finished and written <= expired:
            removed.append(store.backend.address(attempt))
            if not dry_run:
                store.backend.discard(attempt)
    held = dict.fromkeys((f"{COPIES}/*", f"{SCRATCH}/*", f"{TEMPORARY}/*"), expired)
    for pattern, limit in {f"{CACHE}/*/[!.]*": oldest, **held}.items():
        for path in sorted(store.root.glob(pattern)):
            if written_at(path) <= limit:
                removed.append(str(path))
                if not dry_run:
                    throw_away(path, store.root)
    return removed


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

    entries = store.backend.entries(artifact.place, until=MANIFEST)
    if is_current() or any(entry.path == path and entry.time > oldest for entry in entries):
        return False
    if store.read(path) != content:
        return False
    store.backend.delete(path)
    if is_current():
        with suppress(CorruptArtifact):  # another removed its files, too
            artifact.require_files()
            store.backend.create(path, content)
        return False
    store.backend.discard(artifact.prefix)
    return True
