"""Removing what nothing uses: artifacts no longer current, and what unfinished attempts left.

Belongs here: what is in use. Does not belong here: how an attempt is removed (`store`).
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.store.artifacts import Artifact, manifest_content
from react_pipeline.store.errors import CorruptArtifact, MissingArtifact
from react_pipeline.store.folder import MANIFEST, USED, written_at

if TYPE_CHECKING:
    from react_pipeline.store.store import Store

logger = logging.getLogger(__name__)

CLAIMS = ".notes/claims"
"""Notes that say who decides; needless once what they claim is published or pruned."""

_ATTEMPT = re.compile(r".*?/_[0-9a-f]{16}(?=/)")


def prune(store: Store, *, dry_run: bool, keep_seconds: float) -> list[str]:
    """Remove artifacts that nothing uses, attempts that were never published, and scratch.

    In use are current artifacts, those that were current or made within `keep_seconds`, and the
    ancestors of all of these. Where a pointer or a manifest is damaged, everything of that key is
    kept and reported. A process whose files are removed before it has published them publishes
    nothing.

    Returns:
        The addresses of what was removed (would be, with `dry_run`).
    """
    from react_pipeline.store.store import RETENTION_SECONDS

    look = store.look()
    times: dict[str, float] = defaultdict(float)
    published: dict[str, Artifact] = {}
    attempts: dict[str, float] = defaultdict(float)
    for entry in look.backend.heads():
        place, _, name = entry.path.rpartition("/")
        if match := _ATTEMPT.match(entry.path):
            attempts[match[0]] = max(attempts[match[0]], entry.time)
        elif name in (MANIFEST, USED):
            times[place] = max(times[place], entry.time)
        if name == MANIFEST and not match:
            try:
                published[place] = look._at(place)
            except CorruptArtifact as error:
                logger.warning("kept: %s", error)
            except MissingArtifact:
                pass
    # A clock ahead dooms nothing: no more time has passed than the newest object shows.
    scratches = {path: written_at(path) for path in (store.root / ".scratch").glob("*")}
    seen = [*times.values(), *attempts.values(), *scratches.values()]
    now = min(time.time(), max(seen, default=0))
    oldest, expired = now - keep_seconds, now - RETENTION_SECONDS
    removed = []
    for artifact in _children_first(_unused(look, published, times, oldest)):
        try:
            if not dry_run and not _remove(store, artifact, oldest):
                break  # it is current again, and so may be its ancestors
        except OSError as error:  # such as a stale handle of NFS
            logger.warning("kept: %s", error)
        else:
            removed.append(artifact.address)
    left = attempts.keys() - {artifact.prefix for artifact in published.values()}
    unfinished = {prefix: attempts[prefix] for prefix in sorted(left)}
    removed += _prune_attempts(store, unfinished, oldest, expired, dry_run=dry_run)
    removed += _prune_scratches(store, scratches, oldest, expired, dry_run=dry_run)
    if not dry_run:
        _forget_verified(store, attempts, expired)
        store.backend.sweep(RETENTION_SECONDS)
        _remove_claims(store, oldest)
    return removed


def _prune_attempts(
    store: Store, attempts: Mapping[str, float], oldest: float, expired: float, *, dry_run: bool
) -> Iterator[str]:
    """Remove attempts that were never published, unless their processes may live; gives the
    addresses.
    """
    for prefix, written in attempts.items():
        slug = prefix.rpartition("/")[0].replace("/", "--")
        with store.locked(slug, wait=False) as is_ours:
            is_due = written <= (oldest if is_ours else expired)
            if is_due and (dry_run or store.discard(prefix)):
                yield store.backend.address(prefix)


def _prune_scratches(
    store: Store, scratches: Mapping[Path, float], oldest: float, expired: float, *, dry_run: bool
) -> Iterator[str]:
    for scratch in sorted(scratches):
        with store.locked(scratch.name, wait=False) as is_ours:
            if scratches[scratch] <= (oldest if is_ours else expired):
                yield str(scratch)
                if not dry_run:
                    store.throw_away(scratch)


def _forget_verified(store: Store, attempts: Collection[str], expired: float) -> None:
    """Remove what is remembered of attempts that are gone."""
    known = {prefix.replace("/", "--") for prefix in attempts}
    for memory in (store.root / ".verified").glob("*"):
        if memory.name not in known and written_at(memory) <= expired:
            memory.unlink(missing_ok=True)


def _remove_claims(store: Store, oldest: float) -> None:
    for claim in list(store.backend.entries(CLAIMS)):
        if claim.time <= oldest:
            store.backend.delete(claim.path)


def _unused(
    look: Store, published: Mapping[str, Artifact], times: Mapping[str, float], oldest: float
) -> list[Artifact]:
    """What was neither current nor made since a time, and is no ancestor of such."""
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
    parents = {one.fingerprint: set(one.parents.values()) for one in published.values()}
    pending = list(used)
    while pending:
        new = parents.get(pending.pop(), set()) - used
        used |= new
        pending += new
    return [one for one in published.values() if one.fingerprint not in used]


def _children_first(artifacts: Collection[Artifact]) -> Iterator[Artifact]:
    left = {artifact.fingerprint: artifact for artifact in artifacts}
    while left:
        parents = {parent for artifact in left.values() for parent in artifact.parents.values()}
        for fingerprint in sorted(left.keys() - parents):
            yield left.pop(fingerprint)


def _remove(store: Store, artifact: Artifact, oldest: float) -> bool:
    """Remove an artifact, unless it is used again by now; its manifest goes first."""

    def is_used() -> bool:
        current = store.pointer(artifact.stage, artifact.key)
        heads = store.backend.heads(artifact.place)
        return current == artifact.fingerprint or any(
            head.time > oldest for head in heads if head.path == f"{artifact.place}/{USED}"
        )

    path, content = f"{artifact.place}/{MANIFEST}", manifest_content(artifact.manifest)
    if is_used() or not store.backend.remove(path, content):
        return False
    if is_used():
        store.backend.create(path, content)
        return False
    store.backend.delete(f"{artifact.prefix}/{MANIFEST}", f"{artifact.place}/{USED}")
    store.backend.discard(artifact.prefix)
    return True
