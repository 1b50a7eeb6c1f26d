"""Attempts: one build by one process, in folders of its own, under a lease that other processes and
hosts respect.

Belongs here: the folders below `.staging`, leases and who is alive. Does not belong here:
publication (`store`).

Layout, where an attempt is called `<host>-<process id>-<random>`::

    .staging/<slug>.<attempt>          what it writes, and in the end the artifact
    .staging/<slug>.<attempt>.scratch  what it resumes from after a kill; no part of the artifact
    .staging/<slug>.<attempt>.lease    its host and the fingerprints it relies on; touched every few
    seconds

Nothing that is published depends on locks or leases: folders are private and a rename is won by one
attempt. They spare work, and keep `prune` away from what a build uses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from react_pipeline.store.durable import write_atomically

logger = logging.getLogger(__name__)

SCRATCH = ".scratch"
LEASE = ".lease"

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 120.0
"""An attempt of another host whose lease was not touched for so long is considered dead."""


@cache
def host_of(root: Path) -> str:
    """Identifies the processes that share the file locks below `root`: those of one boot, one mount
    namespace and one device. Two mounts of a network file system need not share them.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        mounts = str(Path("/proc/self/ns/mnt").readlink())
    except OSError:  # no Linux: the host's name does not change while its processes live
        boot, mounts = socket.gethostname(), ""
    return hashlib.sha256(f"{boot} {mounts} {root.stat().st_dev}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Attempt:
    """One build of the artifact of `slug`; `name` is unique over hosts and containers."""

    root: Path
    slug: str
    name: str

    @property
    def staging(self) -> Path:
        """The folder that the attempt writes."""
        return self.root / f"{self.slug}.{self.name}"

    @property
    def scratch(self) -> Path:
        """The folder that it resumes from. It is not part of the artifact and stays until that is
        published, so that a kill while files are hashed and synced costs no more than another.
        """
        return self.staging.with_name(self.staging.name + SCRATCH)

    @property
    def lease(self) -> Path:
        """The file that says it is alive."""
        return self.staging.with_name(self.staging.name + LEASE)

    @property
    def leftovers(self) -> list[Path]:
        """The folders of it that exist."""
        return [path for path in (self.staging, self.scratch) if path.exists()]

    def is_dead(self, *, locked: bool) -> bool:
        """Whether its process has ended.

        Args:
            locked: The caller holds the lock that the attempt's process would hold on this host.
        """
        if locked and self.name.partition("-")[0] == host_of(self.root):
            return True
        try:
            age = now_of(self.root) - self.lease.stat().st_mtime
        except OSError:  # removed when an attempt ends
            return True
        return abs(age) > LEASE_SECONDS  # a date in the future would block it for good

    def relies_on(self) -> set[str]:
        """Fingerprints of the artifacts that it reads and of the one it publishes."""
        try:
            return set(json.loads(self.lease.read_text())["relies_on"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return set()

    def discard(self) -> None:
        """Remove its lease and its folders.

        The lease goes first and folders leave their place in one rename: if the process lives after
        all, it finds everything it wrote or nothing, and publishes nothing without its lease. What
        the disk refuses to remove stays for the next build or `prune`.
        """
        with kept_if_refused():
            self.lease.unlink(missing_ok=True)
            trash = self.root.parent / ".quarantine"
            trash.mkdir(exist_ok=True)
            for path in self.leftovers:
                gone = trash / f"{secrets.token_hex(4)}-{path.name}"
                with kept_if_refused():
                    path.rename(gone)
                    shutil.rmtree(gone, ignore_errors=True)

    def adopt(self, dead: Attempt, *, locked: bool) -> None:
        """Go on with the scratch of a dead attempt.

        It is moved where the lock proves that it is dead, and copied where only its lease has run
        out: a process that was merely suspended may still write to its open files.
        """
        move = locked and dead.name.partition("-")[0] == host_of(self.root)
        try:
            if move:
                dead.scratch.rename(self.scratch)
            else:
                shutil.copytree(dead.scratch, self.scratch)
        except OSError:  # none, another build was faster, or its process lives after all
            shutil.rmtree(self.scratch, ignore_errors=True)

    @contextlib.contextmanager
    def held(self, relies_on: Iterable[str]) -> Iterator[None]:
        """Hold the lease."""
        record = {"host": socket.gethostname(), "pid": os.getpid(), "relies_on": sorted(relies_on)}
        write_atomically(self.lease, json.dumps(record))
        ended = threading.Event()
        thread = threading.Thread(
            target=self._touch, args=(ended,), name=f"lease of {self.slug}", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            with kept_if_refused():  # it runs out; what was built is whole, or has its own error
                self.lease.unlink(missing_ok=True)

    def _touch(self, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.lease)


@contextlib.contextmanager
def kept_if_refused() -> Iterator[None]:
    """Warn of what the disk refuses to remove, instead of failing."""
    try:
        yield
    except FileNotFoundError:  # another process was faster
        pass
    except OSError as error:  # such as a stale handle of NFS, or a file that is open on a host
        logger.warning("kept: %s", error)


def new_attempt(root: Path, slug: str) -> Attempt:
    """An attempt of this process, none of whose folders exist."""
    return Attempt(root, slug, f"{host_of(root)}-{os.getpid()}-{secrets.token_hex(4)}")


def attempts(root: Path, slug: str | None = None) -> list[Attempt]:
    """Attempts that left anything below `root`, of one artifact or of all; the one that wrote last
    comes first.
    """
    names = {
        path.name.removesuffix(SCRATCH).removesuffix(LEASE)
        for path in root.glob(f"{slug or '[!.]*'}.*")
    }
    started = [Attempt(root, *name.split(".", 1)) for name in names if "." in name]
    return sorted(started, key=_last_written, reverse=True)


def _last_written(attempt: Attempt) -> float:
    last = 0.0
    for path in attempt.leftovers:
        with contextlib.suppress(OSError):  # removed since
            last = max(last, path.stat().st_mtime)
    return last


def now_of(root: Path) -> float:
    """The clock of the file system, which is another host's where the store is shared; ours where
    it is read-only.
    """
    clock = root / f".clock-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        clock.touch()
        return clock.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            clock.unlink(missing_ok=True)
