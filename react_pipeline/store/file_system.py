"""What the file system of a store can do, tried once a process: network and user-space ones differ.

Belongs here: the probe. Does not belong here: what follows from it (`attempts`, `store`).
"""

from __future__ import annotations

import logging
import secrets
import shutil
from pathlib import Path

from react_pipeline.store.durable import lock

logger = logging.getLogger(__name__)

_has_locks: dict[int, bool] = {}


def has_locks(root: Path) -> bool:
    """Whether a lock that is held is refused to another. Without, builds respect leases alone.

    Where locks belong to processes, as over some network file systems, a second one of this process
    is granted; that counts as no locks, and leases are always safe.
    """
    device = root.stat().st_dev
    if device not in _has_locks:
        trial = (
            root / ".quarantine" / f"probe-{secrets.token_hex(4)}"
        )  # a kill leaves it to `prune`
        trial.mkdir(parents=True)
        try:
            with (trial / "lock").open("w") as one, (trial / "lock").open("w") as other:
                _has_locks[device] = lock(one, wait=False) and not lock(other, wait=False)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
        if not _has_locks[device]:
            logger.warning(
                "%s: a file system without locks; killed builds are resumed only after minutes",
                root,
            )
    return _has_locks[device]
