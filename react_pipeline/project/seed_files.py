"""Seed files: the digests by which a domain's seed images are known to a fingerprint.

Belongs here: only that, because it is asked for at every check of freshness. Does not belong here: encoding seeds and
refusing wrong ones (`seeds`).
"""

import os
from functools import lru_cache
from pathlib import Path

from react_pipeline.settings import DomainConfig
from react_pipeline.store import sha256_of

MISSING = "missing"


def seed_path(directory: Path, seed: Path) -> Path:
    """Path of a seed: relative to `directory`, the folder of the domain files."""
    return Path(os.path.normpath(directory / seed))


def seed_digests(directory: Path, domain: DomainConfig) -> dict[str, list[str]]:
    """SHA-256 of each class's seed images (`missing` for a file that is not there), for the classes that have any."""
    return {
        entry.name: [_digest(seed_path(directory, seed)) for seed in entry.seeds]
        for entry in domain.classes
        if entry.seeds
    }


def _digest(path: Path) -> str:
    try:
        stat = path.stat()
        return _digest_of(path, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return MISSING


@lru_cache(maxsize=100_000)
def _digest_of(path: Path, _mtime_ns: int, _size_bytes: int) -> str:
    return sha256_of(path)
