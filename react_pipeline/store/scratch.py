"""Partial work of a build, which the next build of the same inputs finds after a kill.

Does not belong here: which folder it is, and how long it stays (`attempts`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from react_pipeline.store.durable import fsync, fsync_tree, link_or_copy, remove

FILES, RECORD = "files", "record.json"
"""What `Scratch.build` keeps."""


@dataclass(frozen=True)
class Scratch:
    """What survives a kill: files and folders that are complete as soon as they have their names.

    Several files that belong together are one kept folder. Names that begin with a dot are
    temporary.
    """

    folder: Path

    def keep(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Return the file or folder of this name, which `write` writes to a temporary path unless
        it is there. It never changes afterwards.
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

    def build(self, name: str, target: Path, write: Callable[[Path], Any]) -> Any:
        """Do a part of a build once: `write` fills a kept folder and returns a record (JSON); the
        files are linked into `target`, and the record is returned.
        """

        def keep(folder: Path) -> None:
            (folder / FILES).mkdir(parents=True)
            record = json.dumps(write(folder / FILES))
            (folder / RECORD).write_text(record, encoding="utf-8")

        kept = self.keep(name, keep)
        link_or_copy(kept / FILES, target)
        return json.loads((kept / RECORD).read_text(encoding="utf-8"))
