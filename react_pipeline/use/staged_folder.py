"""A folder that is written next to its place under a hidden name, and renamed into it when it is
whole.

Does not belong here: what is in it (`exported_folder`).
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from react_pipeline.store import InputError, fsync, lock
from react_pipeline.use.classifier import RECORD_FILE

UNFINISHED = ".exporting"
"""Marks a folder that an export is writing, to recognize what a killed one left."""


def refuse_occupied(target: Path, overwrite: bool) -> None:
    """Refuse a place that may not be written.

    Raises:
        InputError: Unless it is free, empty, or, to be overwritten, an earlier export.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target}: already exists and is not a folder; choose another place")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(
            f"{target}: already exists and is not empty; choose another folder, or overwrite it"
        )
    if not _is_ours(target):
        raise InputError(
            f"{target}: holds no {RECORD_FILE}, so no export wrote it, and it is not overwritten"
        )
    if others := _others(target):
        raise InputError(
            f"{target}: holds {others[0]}, which no export wrote; move it away, then export again"
        )


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder, and no link, that an export made; an empty one is as good."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or bool(names & {RECORD_FILE, UNFINISHED})


def _require_ours(folder: Path) -> None:
    if os.path.lexists(folder) and not _is_ours(folder):
        raise InputError(
            f"{folder}: already exists and no export wrote it; move it away, then export again"
        )


def _others(folder: Path) -> list[str]:
    """What a finished export at this place did not write."""
    try:
        files = {
            RECORD_FILE,
            *json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))["files"],
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [RECORD_FILE]
    found = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return [
        name
        for path in found
        if (name := path.relative_to(folder).as_posix()) not in files or path.is_symlink()
    ]


@contextmanager
def staged_next_to(target: Path) -> Iterator[Path]:
    """An empty hidden folder next to the target, held by a lock; what a killed export left in it is
    removed.
    """
    staging = target.with_name(f".{target.name}.partial")
    _require_ours(staging)
    staging.mkdir(exist_ok=True)
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        # Another export may have renamed the folder since it was opened.
        held = lock(descriptor, wait=False) and staging.exists()
        if not held or not os.path.samestat(os.fstat(descriptor), staging.stat()):
            raise InputError(
                f"{target}: another export writes to it; wait for it, or choose another folder"
            )
        for left in staging.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        (staging / UNFINISHED).touch()
        try:
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
    _require_ours(replaced)
    (staging / UNFINISHED).unlink()
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
