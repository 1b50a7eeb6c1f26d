"""Removing what nothing uses: artifacts no longer current, folders of dead attempts, what was
quarantined.

Belongs here: what is in use. Does not belong here: who is alive (`attempts`).
"""

from __future__ import annotations

import logging
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.store.artifacts import CURRENT, MANIFEST, memory_of_verified, read_manifest
from react_pipeline.store.attempts import attempts, now_of
from react_pipeline.store.errors import CorruptArtifact

if TYPE_CHECKING:
    from react_pipeline.store.store import Store

logger = logging.getLogger(__name__)

RETENTION_SECONDS = 3600.0
"""Artifacts that were current so recently are kept: a step may have looked one up and not yet begun
to build on it.
"""


def prune(
    store: Store, *, dry_run: bool = False, keep_seconds: float = RETENTION_SECONDS
) -> list[Path]:
    """Remove artifacts that nothing uses, folders of dead attempts, and what was quarantined.

    In use are current artifacts, those that a live build of any host reads or publishes, those that
    were current or made within `keep_seconds`, and the ancestors of all of these. Where a pointer
    or a manifest is damaged, everything of that key is kept and reported. An artifact leaves its
    place in one rename, so that a kill leaves no part of it.

    Returns:
        The removed paths (those that would be, with `dry_run`).
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
    parents = {}
    kept = set().union(*(lease.relies_on() for lease in leases))
    for path in manifests:
        directory = path.parent
        fingerprint = path.parent.name
        try:
            manifest = read_manifest(directory, path.relative_to(store.root).parts[0])
            made = path.stat().st_mtime
        except (CorruptArtifact, FileNotFoundError) as error:
            logger.warning("kept: %s", error)
            continue
        parents[directory] = set(manifest["parents"].values())
        current, since = pointers.get(directory.parent, ("", now))
        if current == fingerprint or not current or now - max(since, made) < keep_seconds:
            kept.add(fingerprint)
    by_fingerprint = {directory.name: of_artifact for directory, of_artifact in parents.items()}
    pending = list(kept)
    while pending:
        new = by_fingerprint.get(pending.pop(), set()) - kept
        kept |= new
        pending += new
    doomed = [directory for directory in parents if directory.name not in kept]
    trash = store.root / ".quarantine"
    removed = doomed + sorted(trash.glob("*"))
    if not dry_run:
        trash.mkdir(parents=True, exist_ok=True)
        for directory in doomed:
            with suppress(FileNotFoundError):  # another prune was faster
                directory.rename(trash / f"{secrets.token_hex(4)}-{directory.name}")
        for path in trash.glob("*"):
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
        gone = {directory.name for directory in doomed}
        for memory in memory_of_verified(store.root).glob("*"):
            if memory.name.rpartition("--")[2] in gone:
                memory.unlink(missing_ok=True)
    return removed + _reap(store, dry_run=dry_run)


def _pointer(path: Path) -> tuple[str, float]:
    """The fingerprint that a pointer names, empty if it is damaged, and since when."""
    name = path.read_text(errors="replace").strip()
    if not (name and (path.parent / name / MANIFEST).exists()):
        logger.warning(
            "%s: names no artifact; everything next to it is kept. Materialize it again", path
        )
        name = ""
    return name, path.stat().st_mtime


def _reap(store: Store, *, dry_run: bool) -> list[Path]:
    removed = []
    for attempt in attempts(store.staging):
        with store.try_lock(attempt.slug) as held:
            if attempt.is_dead(locked=held):
                removed += attempt.leftovers
                if not dry_run:
                    attempt.discard()
    return removed
