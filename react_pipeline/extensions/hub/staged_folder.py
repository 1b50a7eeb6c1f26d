"""A folder that is written next to its place under a hidden name, and renamed when it is complete.

Does not belong here: what is in it (`export`).
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from react_pipeline.store import InputError, fsync, fsync_tree
from react_pipeline.use import RECORD_FILE


def refuse_occupied(target: Path, overwrite: bool) -> None:
    """Refuse a place that may not be written.

    Raises:
        InputError: Unless it is free, empty, or, to be overwritten, an earlier export.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError(f"{target}: already exists and is not a folder; choose another place")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(
            f"{target}: already exists and is not empty; choose another folder, or add --overwrite"
        )
    if others := _others(target):
        raise InputError(
            f"{target}: holds {others[0]}, which no export wrote; move it away, then export again"
        )


def _others(folder: Path) -> list[str]:
    """The files and links in a folder that no export wrote."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        exported = {RECORD_FILE, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        exported = set()
    others = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (not path.is_dir() and name not in exported):
            others.append(name)
    return others


@contextmanager
def staged(target: Path, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder to write, which becomes `target` when the context ends without an error.

    A killed process leaves `target` as it was, and a hidden folder next to it that may be removed.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    staging = scratch / "new"
    earlier = scratch / "earlier"
    staging.mkdir()  # with the usual permissions, unlike the folder of mkdtemp
    try:
        yield staging
        fsync_tree(staging)
        refuse_occupied(target, overwrite)  # again: writing a large model takes minutes
        if target.exists():
            target.rename(earlier)
        staging.rename(target)
        fsync(target.parent)
    finally:
        if earlier.exists() and not target.exists():
            earlier.rename(target)
        shutil.rmtree(scratch, ignore_errors=True)
