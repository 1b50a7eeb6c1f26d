"""What the file system of a store can do, tried once a process: network and user-space ones differ.

Belongs here: the probe. Does not belong here: what follows from it (`attempts`, `store`).
"""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from react_pipeline.store.durable import lock
from react_pipeline.store.errors import InputError

logger = logging.getLogger(__name__)

_TRY_LOCK = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
_known: dict[int, bool] = {}


def has_locks(root: Path) -> bool:
    """Whether a lock that one process holds is refused to another. Without, builds respect leases
    alone.

    Raises:
        InputError: If a directory may be renamed onto another that holds files: publication relies
            on the refusal.
    """
    device = root.stat().st_dev
    if device in _known:
        return _known[device]
    trial = root / ".quarantine" / f"probe-{secrets.token_hex(4)}"  # a kill leaves it to `prune`
    trial.mkdir(parents=True)
    try:
        _try_rename(trial)
        found = _try_lock(trial / "lock")
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    if not found:
        logger.warning(
            "%s: a file system without locks; killed builds are resumed only after minutes", root
        )
    _known[device] = found
    return found


def _try_rename(trial: Path) -> None:
    for name in ("one", "other"):
        (trial / name).mkdir()
        (trial / name / "file").write_text(name)
    try:
        (trial / "one").rename(trial / "other")
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return
    raise InputError(
        f"{trial.parents[1]}: on this file system a directory may replace another or cannot be "
        "renamed, so two builds could mix; point `store` at a local disk, NFS 4 or Lustre"
    )


def _try_lock(path: Path) -> bool:
    with path.open("w") as file:
        if not lock(file, wait=False):
            return False
        command = [sys.executable, "-Sc", _TRY_LOCK, str(path)]
        refused = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # noqa: S603 - ours
    return refused.returncode != 0
