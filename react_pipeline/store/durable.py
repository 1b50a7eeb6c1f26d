"""Atomic file writes that survive a kill or a power failure, locks between processes, and digests.

Digests of the user's files are remembered: shards and vectors are gigabytes and stay where the user
put them. Does not belong here: what the files hold, or which of them make an artifact
(`artifacts`).
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import Any, TextIO

from react_pipeline.store.bounded import open_regular
from react_pipeline.store.errors import CorpusError

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""A network file system without a lock service."""

CTIME_STEP_NS = 1_000_000
"""FAT, exFAT and object stores mounted as folders report another time as ctime, of whole
milliseconds at best.
"""
SAMPLE_BYTES = 4_096

CACHE = ".cache"
"""Folder of a store for what can be lost without harm."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process ids repeat over the containers that share a volume.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        rename_synced(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def create_atomically(path: Path, text: str) -> bool:
    """Write a small text file unless it is there; returns whether this call created it, which of
    several at once only one does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        fsync(temporary)
        os.link(temporary, path)
        fsync(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def rename_synced(written: Path, path: Path) -> None:
    """Give a finished file its name, which then never belongs to a part of it."""
    fsync(written)
    written.replace(path)


def seal(
    marker: Path, files: Iterable[Path] = (), about: Any = True, folder: Path | None = None
) -> None:
    """Write a marker that vouches for files, which are on the disk before it, and keeps `about`
    (JSON).

    Args:
        folder: Holds the files, if the marker is elsewhere; may move, and is then given again.
    """
    files = list(files)
    for path in {*files, *(file.parent for file in files)}:
        fsync(path)
    root = folder or marker.parent
    digests = {os.path.relpath(file, root): sha256_of(file) for file in files}
    content = {"about": about, "files": digests}
    write_atomically(marker, json.dumps({**content, "digest": _digest(content)}))


def sealed(marker: Path, folder: Path | None = None) -> Any:
    """The value that `seal` kept, or None if the marker or one of its files has changed since."""
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        whole = content.pop("digest") == _digest(content) and all(
            sha256_of((folder or marker.parent) / name) == digest
            for name, digest in content["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if whole:
        return content["about"]
    if marker.exists():
        logger.warning(
            "%s: it or its files are not as they were written; they are made again", marker
        )
    return None


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def append(descriptor: int, data: bytes) -> None:
    """Append to a file opened for that; the data is on the disk when this returns, and not there if
    this raises.

    Raises:
        OSError: If the disk refuses it.
    """
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file another name on the same disk, or copy it where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # some file systems know no links
        shutil.copyfile(source, target)


def remove_scratch(folder: Path) -> None:
    """Remove a folder, if it is there, that must not be published; an error if it stays."""
    if folder.exists():
        shutil.rmtree(folder)


def fsync(path: Path) -> None:
    """Make the operating system put a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """`fsync` of everything below a directory, and of itself; files get the mode that the umask
    gives new ones.

    Programs that write to a temporary file and rename it leave mode 600 behind. A file with another
    name got its mode when it was published under that one, maybe by another user.
    """
    mode = S_IMODE(root.stat().st_mode) & 0o666
    for path in [*root.rglob("*"), root]:
        stat = path.lstat()
        if S_ISREG(stat.st_mode) and stat.st_nlink == 1 and S_IMODE(stat.st_mode) != mode:
            path.chmod(mode)
        fsync(path)


def lock(file: TextIO | int, *, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file until it is closed; false if another process holds it (`shared`: alone), or
    the file system has no locks.

    The kernel frees it when its holder dies, so that a SIGKILL leaves no lock behind.
    """
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock file, which is made where it is missing, and hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        held = lock(file)
        try:
            yield
        finally:
            release(file, held)


def release(file: TextIO, held: bool) -> None:
    """Free a lock at once: a forked process that has the file open, too, would keep it until it
    ends.
    """
    if held:
        fcntl.flock(file, fcntl.LOCK_UN)


def stamp_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file is written to or replaced; the time of change (ctime), unlike
    others, cannot be set.
    """
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def outside_stamp(path: Path) -> tuple[int, ...]:
    """`stamp_of` a file of the user, and a digest of its two ends where its disk keeps no time of
    change.
    """
    stat = path.stat()
    if stat.st_ctime_ns % CTIME_STEP_NS or not S_ISREG(stat.st_mode):
        return stamp_of(stat)
    with path.open("rb") as file:
        ends = file.read(SAMPLE_BYTES)
        file.seek(max(len(ends), stat.st_size - SAMPLE_BYTES))
        ends += file.read(SAMPLE_BYTES)
    return *stamp_of(stat), int(hashlib.sha256(ends).hexdigest()[:12], 16)


def remembered_sha256(root: Path, path: Path) -> str:
    """SHA-256 of an outside file, remembered by its path and `outside_stamp`.

    Args:
        root: Root of the store whose cache is used.

    Raises:
        CorpusError: If the file cannot be read.
    """
    try:
        seen: dict[str, Any] = {"path": str(path.resolve()), "stamp": list(outside_stamp(path))}
        name = hashlib.sha256(seen["path"].encode()).hexdigest()[:16]
        cached = root / CACHE / "shards" / f"{name}.json"
        remembered = sealed(cached) or {}
        if {key: remembered.get(key) for key in seen} == seen:
            return str(remembered["sha256"])
        digest = sha256_of(path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error
    seal(cached, about={**seen, "sha256": digest})
    return digest
