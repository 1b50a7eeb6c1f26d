"""Digests of outside files, remembered: shards and vectors are gigabytes and stay where the user put them.

Belongs here: the memory of digests in the store's cache. Does not belong here: which files make a corpus, or the
digests of the store's own files (`artifacts`).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from react_pipeline.store.durable import sha256_of, write_atomically
from react_pipeline.store.errors import CorpusError

CACHE = ".cache"
"""Folder of a store for what can be lost without harm."""


def remembered_sha256(root: Path, path: Path) -> str:
    """SHA-256 of an outside file, remembered by path, size and modification time.

    Args:
        root: Root of the store whose cache is used.

    Raises:
        CorpusError: If the file cannot be read.
    """
    try:
        stat = path.stat()
        seen: dict[str, Any] = {"path": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        name = hashlib.sha256(seen["path"].encode()).hexdigest()[:16]
        cached = root / CACHE / "shards" / f"{name}.json"
        remembered = _read(cached)
        if {key: remembered.get(key) for key in seen} == seen:
            return str(remembered["sha256"])
        digest = sha256_of(path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error
    write_atomically(cached, json.dumps({**seen, "sha256": digest}))
    return digest


def _read(cached: Path) -> dict[str, Any]:
    try:
        entry = json.loads(cached.read_text())
    except (OSError, ValueError):
        return {}
    return entry if isinstance(entry, dict) and "sha256" in entry else {}
