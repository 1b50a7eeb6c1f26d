"""A store's objects in object storage: S3, GCS or Azure by obstore, bounded retries, errors as one
line; files are built, and copied to be read, on this machine.

Does not belong here: what the objects mean (`store`), looks at many of them (`bucket_look`).

An object is removed by a conditional write, since no server deletes on a condition everywhere: a
few bytes that begin with `REMOVED` are no object.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from react_pipeline.store.durable import rename_synced
from react_pipeline.store.errors import (
    InputError,
    ReactError,
    SourceUnavailable,
    StoreWriteError,
)
from react_pipeline.store.folder import (
    HEADS,
    MANIFEST,
    Entry,
    Folder,
    temporary_in,
    throw_away,
    written_at,
)

if TYPE_CHECKING:
    from react_pipeline.store.bucket_look import BucketLook

RETRY_SECONDS = 180.0
"""A request that is answered 5xx, or not at all, is tried again for so long. obstore renews no
signature between tries, and servers accept one for 5 minutes.
"""
PROBE_SECONDS = 5.0
THREADS = 16
"""Requests at once."""
MAX_PARTS = 9_000
"""Parts of one upload; S3 allows 10,000."""
MIN_PART_BYTES = 8 << 20
COPIES = ".copies"
MEASURED_SECONDS = 10
"""Copies are measured once in so long, which takes a walk."""
REMOVED = b"removed "
REMOVED_BYTES = len(REMOVED) + 16

_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSED = re.compile(
    "AccessDenied|AuthorizationHeaderMalformed|ExpiredToken|InvalidAccessKeyId|InvalidToken|"
    "RequestTimeTooSkewed|SignatureDoesNotMatch|TokenRefreshRequired|PermissionDenied|"
    "Unauthenticated"
)
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google|MissingCredentials", re.I)

Meta = Mapping[str, Any]
"""What a server says of an object."""

T = TypeVar("T")
Item = TypeVar("Item")


class ConflictError(Exception):
    """A conditional write whose condition does not hold."""


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket by its URL. It holds no connection, so it may go to another process.

    Attributes:
        home: Folder of this machine for builds, copies and locks.
        cache_bytes: What copies of files may take beside those that processes have open.
    """

    url: str
    home: Path
    cache_bytes: float
    retry_seconds: float = RETRY_SECONDS
    is_local: ClassVar[bool] = False

    def address(self, path: str) -> str:
        """Return the URL of an object."""
        return f"{self.url.rstrip('/')}/{path}"

    def look(self) -> BucketLook:
        """Return the same at one moment."""
        from react_pipeline.store.bucket_look import BucketLook  # a bucket too

        return BucketLook(self.url, self.home, self.cache_bytes)

    def read(self, path: str) -> bytes:
        """Behave as in `Folder`."""
        content, _ = self._get(path)
        if content.startswith(REMOVED):
            raise FileNotFoundError(path)
        return content

    def _get(self, path: str) -> tuple[bytes, Meta]:
        with self._named(path) as (library, client):
            answer = library.get(client, path)
            return bytes(answer.bytes()), answer.meta

    def put(self, path: str, data: bytes) -> None:
        """Behave as in `Folder`."""
        self._put(path, data, "overwrite")

    def create(self, path: str, data: bytes) -> bool:
        """Behave as in `Folder`."""
        condition: str | Meta = "create"
        while True:
            try:
                self._put(path, data, condition)
                return True
            except ConflictError:
                try:
                    content, condition = self._get(path)
                except FileNotFoundError:
                    condition = "create"
                    continue
                if not content.startswith(REMOVED):
                    return content == data

    def touch(self, path: str) -> None:
        """Behave as in `Folder`."""
        with suppress(FileNotFoundError, ConflictError):
            self._put(path, *self._get(path))

    def remove(self, path: str, data: bytes, *, not_after: float = math.inf) -> bool:
        """Behave as in `Folder`."""
        mark = REMOVED + secrets.token_hex(8).encode()
        try:
            content, meta = self._get(path)
            if content != data or entry_of(meta).time > not_after:
                return False
            self._put(path, mark, meta)
        except ConflictError:  # maybe by this very request, whose answer was lost
            return self._get(path)[0] == mark
        except FileNotFoundError:
            return False
        return True

    def _put(self, path: str, data: bytes, condition: str | Meta) -> None:
        """Write an object; if a condition is what a server said of it, only over that version."""
        mode = condition if isinstance(condition, str) else _version(condition)
        try:
            with self._named(path) as (library, client):
                library.put(client, path, data, use_multipart=False, mode=mode)
        except FileNotFoundError as error:  # as some servers answer where the condition names one
            raise ConflictError(self.address(path)) from error

    def delete(self, *paths: str) -> None:
        """Behave as in `Folder`."""
        with suppress(FileNotFoundError), self._named(paths[0]) as (library, client):
            library.delete(client, list(paths))

    def discard(self, prefix: str) -> None:
        """Behave as in `Folder`."""
        if paths := [entry.path for entry in self.entries(prefix)]:
            self.delete(*paths)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Behave as in `Folder`."""
        with self._named(prefix) as (library, client):
            for page in library.list(client, prefix or None):
                yield from map(entry_of, page)

    def heads(self, prefix: str = "", name: str = "") -> Iterator[Entry]:
        """Behave as in `Folder`, with every file of each attempt."""
        for entry in self.entries(prefix):
            if entry.path[0] != "." and (is_head(entry) or "/_" in entry.path):
                yield entry

    def finish(self, prefix: str, built: Path, names: Collection[str]) -> None:
        """Behave as in `Folder`: the first of the files is uploaded first."""

        def upload(name: str) -> None:
            path, file = f"{prefix}/{name}", built / name
            part = max(MIN_PART_BYTES, file.stat().st_size // MAX_PARTS)
            with self._named(path) as (library, client):
                library.put(client, path, file, chunk_size=part, max_concurrency=4)

        first, *others = names
        upload(first)
        each(upload, others)
        built.rename(self._copy(prefix))

    def fetch(self, prefix: str, names: Iterable[str], *, anew: bool) -> Path:
        """Behave as in `Folder`: download what this machine lacks.

        Raises:
            StoreWriteError: If the disk refuses a copy.
        """
        folder = self._copy(prefix)
        missing = [name for name in names if anew or not (folder / name).exists()]
        try:
            if missing:
                make_room(self, time.monotonic() // MEASURED_SECONDS)
            each(lambda name: self._download(f"{prefix}/{name}", folder / name), missing)
        except OSError as error:
            if error.errno is None:  # an object that is gone
                raise
            raise StoreWriteError(
                f"{error.filename or folder}: {error.strerror or error}; this copy of "
                f"{self.address(prefix)} cannot be written; free space, or name another "
                "`cache.folder` in pipeline.yaml"
            ) from error
        return folder

    def _download(self, path: str, file: Path) -> None:
        part = temporary_in(self.home)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as target:
                target.writelines(self._chunks(path))
            rename_synced(part, file)
        finally:
            part.unlink(missing_ok=True)

    def _chunks(self, path: str) -> Iterator[bytes]:
        with self._named(path) as (library, client):
            yield from library.get(client, path).stream(min_chunk_size=MIN_PART_BYTES)

    def sha256_of(self, prefix: str, name: str) -> str:
        """Behave as in `Folder`."""
        digest = hashlib.sha256()
        for chunk in self._chunks(f"{prefix}/{name}"):
            digest.update(chunk)
        return digest.hexdigest()

    def sweep(self, seconds: float) -> None:
        """Behave as in `Folder`, and remove marks of removed objects."""
        Folder(self.home).sweep(seconds)
        listing = list(self.entries(""))
        now = max((entry.time for entry in listing), default=0)  # the clock of the server
        old = [entry.path for entry in listing if _is_mark(entry) and entry.time < now - seconds]
        if old:
            self.delete(*old)

    def require_usable(self) -> None:
        """Try what a store depends on.

        Raises:
            InputError: If access is refused, or the server ignores conditions of writes.
            SourceUnavailable: If it does not answer.
        """
        brief = replace(self, retry_seconds=PROBE_SECONDS)
        path = f".probe/{secrets.token_hex(8)}"
        try:
            brief.create(path, b"1")
            _, first = brief._get(path)
            brief._put(path, b"2", first)
            for condition in ("create", first):
                with suppress(ConflictError):
                    brief._put(path, b"3", condition)
                    raise InputError(
                        f"{self.url}: its server ignores the conditions of writes, by which "
                        "exactly one of several builders publishes; use a server that knows "
                        "If-Match and If-None-Match"
                    )
        finally:
            brief.delete(path)

    def _copy(self, prefix: str) -> Path:
        """Return the folder with copies of an attempt, which is not removed as long as this process
        lives.
        """
        folder = self.home / COPIES / prefix.rpartition("/")[2]
        _lock_use(self.home, folder.name, fcntl.LOCK_SH)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        return folder

    @contextmanager
    def _named(self, path: str) -> Iterator[tuple[Any, Any]]:
        """Yield the library and its client; their errors name the object and what to do."""
        if _process not in (None, os.getpid()):
            raise ReactError(
                f"{self.address(path)}: a forked process cannot reach object storage; open the "
                "file before the fork, or start processes by `spawn`"
            )
        library, client = _client(self.url, self.retry_seconds)
        try:
            yield library, client
        except library.exceptions.BaseError as error:
            raise _explained(self.address(path), error) from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise InputError(
                    f"{self.url}: there is no such bucket; create it, or correct `store`"
                ) from error
            raise FileNotFoundError(self.address(path)) from error


_process: int | None = None


def each(action: Callable[[Item], T], items: Iterable[Item], threads: int = THREADS) -> list[T]:
    """Return the results of a request for each item, in their order, several at once; after one
    that fails no other is begun.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(action, items))


@cache
def _client(url: str, retry_seconds: float) -> tuple[Any, Any]:
    global _process
    import obstore
    from obstore import exceptions  # noqa: F401 - makes it an attribute
    from obstore.store import from_url

    _process = os.getpid()
    retry: Any = {
        "max_retries": 100,
        "retry_timeout": timedelta(seconds=retry_seconds),
    }
    options: Any = {
        "allow_http": True,
        "connect_timeout": "10s",
        "read_timeout": "60s",
        "timeout": "6h",
    }
    try:
        # What reaches the server (AWS_ENDPOINT_URL, AWS_REGION, credentials) is in the environment.
        return obstore, from_url(url, retry_config=retry, client_options=options)
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise InputError(f"store: {url}: {_words(error)}") from error


@lru_cache(1)
def make_room(bucket: Bucket, _moment: float) -> None:
    """Remove the least recently opened copies above the limit that no process has open."""
    home, sizes = bucket.home, {}
    for copy in (home / COPIES).iterdir():
        files = Folder(home).entries(f"{COPIES}/{copy.name}")
        sizes[copy] = sum(entry.size for entry in files)
    total = sum(sizes.values())
    for copy in sorted(sizes, key=written_at):
        if total > bucket.cache_bytes and _lock_use(home, copy.name, fcntl.LOCK_EX | fcntl.LOCK_NB):
            throw_away(copy, home)
            _lock_use(home, copy.name, fcntl.LOCK_UN)
            total -= sizes[copy]


@cache
def _users(home: Path, _process: int) -> Any:
    home.mkdir(parents=True, exist_ok=True)
    return (home / ".users").open("a+b")


_used: set[tuple[Path, int, str]] = set()


def _lock_use(home: Path, attempt: str, kind: int) -> bool:
    """Lock one byte for the copy of an attempt, shared until this process ends; false if a process
    uses it.
    """
    here = home, os.getpid(), attempt
    if here in _used:
        return False
    with suppress(OSError):
        fcntl.lockf(_users(home, os.getpid()), kind, 1, int(attempt[1:], 16) >> 1)
        if kind == fcntl.LOCK_SH:
            _used.add(here)
        return True
    return False


def entry_of(meta: Meta) -> Entry:
    """Return what a server says of an object."""
    return Entry(meta["path"], meta["size"], meta["last_modified"].timestamp(), str(_version(meta)))


def is_head(entry: Entry) -> bool:
    """Return whether an object says what there is, and is no file of an attempt."""
    name = entry.path.rpartition("/")[2]
    return name in HEADS and "/_" not in entry.path and not _is_mark(entry)


def _is_mark(entry: Entry) -> bool:
    return entry.size == REMOVED_BYTES and entry.path.endswith(f"/{MANIFEST}")


def _version(meta: Meta) -> dict[str, Any]:
    """Return what names one version of an object for a conditional write."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _explained(address: str, error: Exception) -> Exception:
    kind = type(error).__name__
    if kind in ("AlreadyExistsError", "PreconditionError"):
        return ConflictError(address)
    text = f"{error} {kind}"
    if refused := _REFUSED.search(text):
        return InputError(
            f"{address}: access is refused ({refused[0]}); renew or correct the credentials of the "
            "environment, and run again: what was built is uploaded then"
        )
    if _NO_CREDENTIALS.search(text):
        return InputError(f"{address}: no credentials found; set them in the environment")
    said = (_CODE.findall(text) or [_words(error)])[0]
    return SourceUnavailable(
        f"{address}: its server does not answer as it should ({said}); check AWS_ENDPOINT_URL and "
        "the network, and run again: what was built is uploaded then"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split("Debug source")[0].split())[:200]
