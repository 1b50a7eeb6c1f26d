"""A folder that is written beside its place under a hidden name, and renamed into it when it is whole.

Does not belong here: what is in it (`exported_folder`).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from react_pipeline.store import InputError, fsync, lock
from react_pipeline.use.classifier import RECORD_FILE


def refuse_occupied(target: Path, overwrite: bool) -> None:
    """Refuse a place that may not be written.

    Raises:
        InputError: Unless it is free, empty, or, to be overwritten, an earlier export.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: is there already and is no folder; choose another place")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target}: is there already and not empty; choose another folder, or overwrite it")
    if not (target / RECORD_FILE).is_file():
        raise InputError(f"{target}: holds no {RECORD_FILE}, so no export wrote it, and it is not overwritten")


@contextmanager
def staged_beside(target: Path) -> Iterator[Path]:
    """An empty hidden folder beside the target, held by a lock; what a killed export left in it is removed."""
    staging = target.with_name(f".{target.name}.partial")
    staging.mkdir(exist_ok=True)
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        held = lock(descriptor, wait=False)
        if not held or not staging.exists() or os.fstat(descriptor).st_ino != staging.stat().st_ino:
            raise InputError(f"{target}: another export writes to it; wait for it, or choose another folder")
    except InputError:
        os.close(descriptor)
        raise
    try:
        for left in staging.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def publish(staging: Path, target: Path, overwrite: bool) -> None:
    """Rename the finished folder into its place; an earlier export steps aside first and goes last."""
    # Looked at again: writing a large model takes minutes.
    refuse_occupied(target, overwrite)
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists() and any(target.iterdir()):
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    try:
        staging.rename(target)
    except OSError:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
    fsync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)
