"""Atomic file writes that survive a kill or a power failure, locks between processes, and digests.

Digests are remembered: of artifacts' files, and of the user's, which are gigabytes and stay where
the user put them. Does not belong here: what the files hold, or which of them make an artifact
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import TextIO

from react_pipeline.store.bounded import open_regular
from react_pipeline.store.errors import CorpusError

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""A network file system without a lock service."""

DIGESTS = ".digests.jsonl"
"""File that remembers digests: in the folder of an attempt those of its files, in that of a store
those of outside files.
"""
CACHE = ".cache"
"""Folder of a store for what is kept only while it is used: files and folders of several kinds."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file so that a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process ids repeat over the containers that share a volume.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        rename_synced(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def rename_synced(written: Path, path: Path) -> None:
    """Give a finished file its name, which then never belongs to a part of it."""
    fsync(written)
    written.replace(path)


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
    """Give a file, or each file of a folder, another name on the same disk, or copy it where that
    cannot be.

    Raises:
        FileExistsError: If the name is taken.
    """
    if source.is_dir():
        for path in source.iterdir():
            link_or_copy(path, target / path.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # some file systems know no links
        with source.open("rb") as data, target.open("xb") as copy:
            shutil.copyfileobj(data, copy)
        fsync(target)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Make the operating system put a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """`fsync` of a file, or of a directory and everything below it; files get the mode that the
    umask gives new ones.

    Programs that write to a temporary file and rename it leave mode 600 behind. A file with another
    name got its mode when it was published under that one, maybe by another user.
    """
    folder = root if root.is_dir() else root.parent
    mode = S_IMODE(folder.stat().st_mode) & 0o666
    for path in [*root.rglob("*"), root]:
        stat = path.lstat()
        if S_ISREG(stat.st_mode) and stat.st_nlink == 1 and S_IMODE(stat.st_mode) != mode:
            path.chmod(mode)
        fsync(path)


def lock(file: TextIO | int, *, wait: bool = True) -> bool:
    """Lock an open file until it is closed; false if another process holds it, or the file system
    has no locks.

    The kernel frees it when its holder dies, so that a SIGKILL leaves no lock behind.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EWOULDBLOCK, *NO_LOCKS}:
            raise
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Take turns with other processes of this machine by a lock file, to save work; yields whether
    the lock is held: not where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        held = lock(file, wait=False)
        if not held:
            logger.info("waiting: another run holds %s", path.stem)
            held = lock(file)
        try:
            yield held
        finally:
            if held:  # or a forked process, which has the file open, too, would keep it
                fcntl.flock(file, fcntl.LOCK_UN)


def file_stamp(stat: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes when a file is written to or replaced; the time of change (ctime), unlike
    others, cannot be set.
    """
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def remembered_sha256(root: Path, path: Path) -> str:
    """Return the SHA-256 of an outside file, as `known_sha256`.

    Args:
        root: Root of the store whose memory is used.

    Raises:
        CorpusError: If the file cannot be read.
    """
    with suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    try:
        return known_sha256(root, path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error


def known_sha256(folder: Path, path: Path) -> str:
    """Return the SHA-256 of a file, which is hashed once as long as its `file_stamp` stays.

    Args:
        folder: Whose `DIGESTS` are used.
    """
    name, stamp = _identity(folder, path)
    seen, digest = _known(folder).get(name, ("", ""))
    if seen != stamp:
        digest = sha256_of(path)
        if _identity(folder, path) == (name, stamp):  # nobody wrote to it meanwhile
            _write_known(folder, {name: (stamp, digest)})
    return digest


def remember(folder: Path, digests: Mapping[Path, str]) -> None:
    """Remember the SHA-256 of files, which are as they were when they were hashed."""
    found = {}
    for path, digest in digests.items():
        name, stamp = _identity(folder, path)
        found[name] = stamp, digest
    _write_known(folder, found)


def _write_known(folder: Path, found: Mapping[str, tuple[str, str]]) -> None:
    _known(folder).update(found)
    with suppress(OSError), (folder / DIGESTS).open("a") as lines:  # a store that may only be read
        lines.write(json.dumps(found) + "\n")


def _identity(folder: Path, path: Path) -> tuple[str, str]:
    return os.path.relpath(path, folder), str(file_stamp(path.stat()))


@cache
def _known(folder: Path) -> dict[str, tuple[str, str]]:
    """Return stamps and digests by path; of a store that may only be read, too, in this process."""
    known: dict[str, tuple[str, str]] = {}
    with suppress(OSError):
        for line in (folder / DIGESTS).read_bytes().splitlines():
            with suppress(ValueError, TypeError, RecursionError):  # cut by a kill
                known.update(json.loads(line))
    return known
