"""Removing what nothing uses: artifacts no longer current, folders of dead attempts, what was
quarantined.

Belongs here: what is in use. Does not belong here: who is alive (`attempts`).
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from react_pipeline.store.artifacts import CURRENT, MANIFEST, memory_of_verified, read_manifest
from react_pipeline.store.attempts import attempts, kept_if_refused, now_of
from react_pipeline.store.errors import CorruptArtifact

if TYPE_CHECKING:
    from react_pipeline.store.store import Store

logger = logging.getLogger(__name__)

RETENTION_SECONDS = 3600.0
"""Artifacts that were current so recently are kept: a step may have looked one up and not yet begun
to build on it.
"""


P = TypeVar("P")


class Published(NamedTuple, Generic[P]):
    """An artifact by its place.

    Attributes:
        current: The fingerprint that is current for its key; "" if that is damaged or missing.
        is_recent: Whether it was made, or another became current, a moment ago.
    """

    place: P
    manifest: Mapping[str, Any]
    current: str
    is_recent: bool


def unused(published: Sequence[Published[P]], kept: Collection[str]) -> list[P]:
    """The places of artifacts that are not current, recent or named in `kept`, nor ancestors of
    such.
    """
    used = set(kept)
    parents: dict[str, set[str]] = {}
    for artifact in published:
        fingerprint = artifact.manifest["fingerprint"]
        parents[fingerprint] = set(artifact.manifest["parents"].values())
        if artifact.current in ("", fingerprint) or artifact.is_recent:
            used.add(fingerprint)
    pending = list(used)
    while pending:
        new = parents.get(pending.pop(), set()) - used
        used |= new
        pending += new
    return [one.place for one in published if one.manifest["fingerprint"] not in used]


def prune(
    store: Store, *, dry_run: bool = False, keep_seconds: float = RETENTION_SECONDS
) -> list[str]:
    """Remove artifacts that nothing uses, folders of dead attempts, and what was quarantined.

    In use are current artifacts, those that a live build of any host reads or publishes, those that
    were current or made within `keep_seconds`, and the ancestors of all of these. Where a pointer
    or a manifest is damaged, everything of that key is kept and reported. An artifact leaves its
    place in one rename, so that a kill leaves no part of it.

    Returns:
        The addresses of what was removed (would be, with `dry_run`).
    """
    now = now_of(store.staging)
    # In this order: what is published or leased after one of these looks is seen by none of the
    # later ones.
    manifests = sorted(store.root.glob("[!.]*/**/" + MANIFEST))
    pointers = {
        path.parent: _pointer(path)
        for path in store.root.glob("[!.]*/**/" + CURRENT)
        if path.is_file()
    }
    leases = [attempt for attempt in attempts(store.staging) if not attempt.is_dead(locked=False)]
    kept = set().union(*(lease.relies_on() for lease in leases))
    published = []
    for path in manifests:
        directory = path.parent
        try:
            manifest = read_manifest(directory, path.relative_to(store.root).parts[0])
            made = path.stat().st_mtime
        except (CorruptArtifact, OSError) as error:
            logger.warning("kept: %s", error)
            continue
        current, since = pointers.get(directory.parent, ("", now))
        is_recent = now - max(since, made) < keep_seconds
        published.append(Published(directory, manifest, current, is_recent))
    doomed = unused(published, kept)
    trash = store.root / ".quarantine"
    removed = doomed + sorted(trash.glob("*"))
    if not dry_run:
        trash.mkdir(parents=True, exist_ok=True)
        for directory in doomed:
            with kept_if_refused():
                directory.rename(trash / f"{secrets.token_hex(4)}-{directory.name}")
        for path in trash.glob("*"):
            with kept_if_refused():
                _remove(path)
        gone = {directory.name for directory in doomed}
        for memory in memory_of_verified(store.root).glob("*"):
            if memory.name.rpartition("--")[2] in gone:
                memory.unlink(missing_ok=True)
        removed = [path for path in removed if not path.exists()]
    return [*map(str, removed), *reap(store, dry_run=dry_run)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()  # somebody put it there


def _pointer(path: Path) -> tuple[str, float]:
    """The fingerprint that a pointer names, empty if it is damaged, and since when."""
    try:
        name, since = path.read_text(errors="replace").strip(), path.stat().st_mtime
    except OSError:  # replaced on another host
        name, since = "", 0.0
    if not (name and (path.parent / name / MANIFEST).exists()):
        logger.warning(
            "%s: names no artifact; everything next to it is kept. Materialize it again", path
        )
        name = ""
    return name, since


def reap(store: Store, *, dry_run: bool) -> list[str]:
    """Remove the folders of dead attempts; returns their paths."""
    removed: list[str] = []
    for attempt in attempts(store.staging):
        with store.try_lock(attempt.slug) as held:
            if attempt.is_dead(locked=held):
                folders = attempt.leftovers
                if not dry_run:
                    attempt.discard()
                removed += [str(path) for path in folders if dry_run or not path.exists()]
    return removed
