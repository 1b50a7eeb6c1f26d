"""Leases as objects: one holder of a name among all hosts, alive while it writes its lease again.

Belongs here: taking, keeping and giving back a lease. Does not belong here: what is done under it
(`bucket_store`). Nothing that is published depends on leases: the first to write a manifest wins.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from react_pipeline.extensions.buckets.bucket import Bucket, ConflictError, Stored, Version
from react_pipeline.store import HEARTBEAT_SECONDS, LEASE_SECONDS, ReactError

LEASES = ".leases"


@dataclass
class Lease:
    """A lease of one process.

    Attributes:
        place: The folder on this machine whose locks prove that an earlier holder is dead.
        relies_on: Fingerprints that `prune` must leave alone.
    """

    bucket: Bucket
    name: str
    place: str
    relies_on: Iterable[str] = ()
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    beats: int = 0
    version: Version | None = None
    _beating: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def path(self) -> str:
        """Path of its object."""
        return f"{LEASES}/{self.name}"

    def take(self, *, alone: bool, bucket: Bucket | None = None) -> bool:
        """Try once to become the holder.

        Args:
            alone: The caller holds the lock of this name in `place`, so that an earlier holder
                there is dead.
            bucket: With other retries than the bucket of this lease.
        """
        bucket = bucket or self.bucket
        with suppress(ConflictError):
            self.version = bucket.create(self.path, self._content())
            return True
        try:
            content, stored = bucket.read(self.path)
        except FileNotFoundError:  # given back meanwhile
            return False
        holder = _record(content)
        if holder.get("token") == self.token:
            self.version = stored.version
            return True
        is_dead = (alone and holder.get("place") == self.place) or is_expired(stored, bucket.now())
        with suppress(ConflictError):
            if is_dead:
                self.version = bucket.replace(self.path, self._content(), stored.version)
        return is_dead and self.version is not None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep a lease that was taken, and give it back."""
        ended = threading.Event()
        thread = threading.Thread(target=self._keep, args=(ended,), name=self.path, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()  # a later beat would create the lease again
            with suppress(ReactError, FileNotFoundError):  # it runs out
                content, _ = self.bucket.brief.read(self.path)
                if _record(content).get("token") == self.token:
                    self.bucket.brief.delete([self.path])

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(
                ReactError, ConflictError, FileNotFoundError
            ):  # the next beat tries again
                self.beat(self.bucket.brief)

    def beat(self, bucket: Bucket | None = None) -> bool:
        """Write the lease again, create it if it vanished, and take it back from a dead holder.

        Args:
            bucket: With other retries than the bucket of this lease.

        Returns:
            Whether this process is the holder.
        """
        with self._beating:
            self.beats += 1  # equal content may have an equal version
            if self.version:
                with suppress(ConflictError):
                    self.version = (bucket or self.bucket).replace(
                        self.path, self._content(), self.version
                    )
                    return True
            self.version = None
            return self.take(alone=False, bucket=bucket)

    def _content(self) -> bytes:
        record = {
            "token": self.token,
            "place": self.place,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "relies_on": sorted(self.relies_on),
            "beats": self.beats,
        }
        return json.dumps(record).encode()


def is_expired(lease: Stored, now: datetime) -> bool:
    """Whether a lease was not written again for too long; both times are of the server's clock."""
    return (now - lease.time).total_seconds() > LEASE_SECONDS


def relied_on(bucket: Bucket) -> set[str]:
    """The fingerprints that living leases name."""
    fingerprints: set[str] = set()
    now = bucket.now()
    for lease in bucket.objects(LEASES):
        with suppress(FileNotFoundError):  # given back meanwhile
            content, stored = bucket.read(lease.path)
            if not is_expired(stored, now):
                fingerprints.update(_record(content).get("relies_on", ()))
    return fingerprints


def _record(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
