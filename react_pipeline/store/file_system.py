"""What the file system of a store can do, tried once a process: network and user-space ones differ.

Belongs here: the probe. Does not belong here: what follows from it (`attempts`, `store`).
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from react_pipeline.store.durable import lock

logger = logging.getLogger(__name__)

LOCKS = ".locks"
"""Folder of a store for lock files."""

_has_locks: dict[int, bool] = {}


def has_locks(root: Path) -> bool:
    """Whether a lock that is held is refused to another. Without, builds respect leases alone.

    Where locks belong to processes, as over some network file systems, a second one of this process
    is granted; that counts as no locks, and leases are always safe.
    """
    device = root.stat().st_dev
    if device not in _has_locks:
        trial = root / LOCKS / f"probe-{secrets.token_hex(4)}"
        trial.parent.mkdir(parents=True, exist_ok=True)
        with trial.open("w") as one, trial.open("w") as other:
            trial.unlink()
            _has_locks[device] = lock(one, wait=False) and not lock(other, wait=False)
        if not _has_locks[device]:
            logger.warning(
                "%s: a file system without locks; killed builds are resumed only after minutes",
                root,
            )
    return _has_locks[device]
