"""Partial work of a build, which the next build of the same inputs finds after a kill.

Does not belong here: which folder it is, and how long it stays (`attempts`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from react_pipeline.store.durable import fsync, fsync_tree, remove


@dataclass(frozen=True)
class Scratch:
    """What survives a kill: files and folders that are complete as soon as they have their names.

    Several files that belong together are one kept folder. Names that begin with a dot are
    temporary.
    """

    folder: Path

    def keep(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Return the file or folder of this name, which `write` writes to a temporary path unless
        it is there; nobody writes to it again.
        """
        path = self.folder / name
        if not path.exists():
            part = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                write(part)
                fsync_tree(part)
                part.rename(path)
            except OSError:
                if not path.is_dir():  # another process kept the same folder
                    raise
            finally:
                remove(part)
            fsync(path.parent)
        return path
