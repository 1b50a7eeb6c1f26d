"""A store's objects in object storage: S3, GCS or Azure by obstore, bounded retries, errors as one
line; files are built, and copied to be read, on this machine.

Does not belong here: what the objects mean (`store`).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from react_pipeline.store.durable import rename_synced
from react_pipeline.store.errors import (
    InputError,
    ReactError,
    SourceUnavailable,
    StoreWriteError,
)
from react_pipeline.store.folder import COPIES, Entry, temporary_in

RETRY_SECONDS = 180.0
"""A request that is answered 5xx, or not at all, is tried again for so long. obstore renews no
signature between tries, and servers accept one for 5 minutes.
"""
LOOK_SECONDS = 10.0
"""How long a look waits for the server, beside a last pause between tries (15 s): ticks are cut off
after 60 seconds, and those that go on nevertheless keep the code server from answering Dagster,
which then ends it.
"""
PROBE_SECONDS = 5.0
THREADS = 16
"""Requests at once."""
SMALL_THREADS = 64
"""Requests for small objects at once."""
MAX_PARTS = 9_000
"""Parts of one upload; S3 allows 10,000."""
MIN_PART_BYTES = 8 << 20
MAX_CONTENTS = 200_000
"""Small objects whose content a process remembers, for its next look."""

_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSED = re.compile(
    "AccessDenied|AuthorizationHeaderMalformed|ExpiredToken|InvalidAccessKeyId|InvalidToken|"
    "RequestTimeTooSkewed|SignatureDoesNotMatch|TokenRefreshRequired|PermissionDenied|"
    "Unauthenticated|MissingCredentials|169.254.169.254|metadata.google"
)

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket by its URL. It holds no connection, so it may go to another process.

    Attributes:
        home: Folder of this machine for builds, copies and locks.
    """

    url: str
    home: Path
    retry_seconds: float = RETRY_SECONDS

    def address(self, path: str) -> str:
        """Return the URL of an object."""
        return f"{self.url.rstrip('/')}/{path}"

    def look(self) -> Bucket:
        """Return the same at one moment."""
        return BucketLook(self.url, self.home)

    def read(self, path: str) -> bytes:
        """Behave as in `Folder`."""
        with self._named(path) as client:
            return bytes(client.get(path).bytes())

    def put(self, path: str, data: bytes, mode: str | Mapping[str, str] = "overwrite") -> None:
        """Behave as in `Folder`; on another condition if `mode` has one, else a FileExistsError."""
        with self._named(path) as client:
            client.put(path, data, use_multipart=False, mode=mode)

    def create(self, path: str, data: bytes) -> None:
        """Behave as in `Folder`."""
        with suppress(FileExistsError):
            self.put(path, data, "create")

    def touch(self, path: str) -> None:
        """Behave as in `Folder`."""
        with suppress(FileNotFoundError, FileExistsError), self._named(path) as client:
            answer = client.get(path)
            self.put(path, bytes(answer.bytes()), _version(answer.meta))

    def delete(self, path: str) -> None:
        """Behave as in `Folder`."""
        with suppress(FileNotFoundError), self._named(path) as client:
            client.delete(path)

    def discard(self, prefix: str) -> None:
        """Behave as in `Folder`."""
        with suppress(FileNotFoundError), self._named(prefix) as client:
            if paths := [entry.path for entry in self.entries(prefix)]:
                client.delete(paths)

    def entries(self, prefix: str = "", until: str = "") -> Iterator[Entry]:
        """Behave as in `Folder`."""
        with self._named(prefix) as client:
            for page in client.list(prefix or None):
                for meta in page:
                    time = meta["last_modified"].timestamp()
                    yield Entry(meta["path"], meta["size"], time, str(_version(meta)))

    def finish(self, prefix: str, built: Path, names: Collection[str]) -> None:
        """Behave as in `Folder`: the first of the files is uploaded first."""

        def upload(name: str) -> None:
            path, file = f"{prefix}/{name}", built / name
            part = max(MIN_PART_BYTES, file.stat().st_size // MAX_PARTS)
            with self._named(path) as client:
                client.put(path, file, chunk_size=part, max_concurrency=4)

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
        with self._named(path) as client:
            yield from client.get(path).stream(min_chunk_size=MIN_PART_BYTES)

    def sha256_of(self, path: str) -> str:
        """Behave as in `Folder`."""
        digest = hashlib.sha256()
        for chunk in self._chunks(path):
            digest.update(chunk)
        return digest.hexdigest()

    def require_usable(self) -> None:
        """Try what a store depends on.

        Raises:
            InputError: If access is refused, or the server ignores conditions of writes.
            SourceUnavailable: If it does not answer.
        """
        brief = replace(self, retry_seconds=PROBE_SECONDS)
        path = f".probe/{secrets.token_hex(8)}"
        try:
            with brief._named(path) as client:
                old = _version(client.put(path, b"1"))
            brief.put(path, b"2")
            for condition in ("create", old):
                with suppress(FileExistsError):
                    brief.put(path, b"3", condition)
                    raise InputError(
                        f"{self.url}: its server ignores the conditions of writes, by which "
                        "exactly one of several builders publishes; use a server that knows "
                        "If-Match and If-None-Match"
                    )
        finally:
            brief.delete(path)

    def _copy(self, prefix: str) -> Path:
        """Return the folder with copies of an attempt, which is used now."""
        folder = self.home / COPIES / prefix.rpartition("/")[2]
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        return folder

    @contextmanager
    def _named(self, path: str) -> Iterator[Any]:
        """Yield the client of obstore; its errors name the object and what to do."""
        from obstore.exceptions import BaseError

        if _process not in (None, os.getpid()):
            raise ReactError(
                f"{self.address(path)}: a forked process cannot reach object storage; open the "
                "file before the fork, or start processes by `spawn`"
            )
        try:
            yield _client(self.url, self.retry_seconds)
        except BaseError as error:
            raise _explained(self.address(path), error) from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise InputError(
                    f"{self.url}: there is no such bucket; create it, or correct `store`"
                ) from error
            raise FileNotFoundError(self.address(path)) from error


@dataclass(frozen=True)
class BucketLook(Bucket):
    """A bucket at one moment: a listing, and requests only for small objects that changed since the
    last look of this process. A server that is away is waited for once.
    """

    retry_seconds: float = LOOK_SECONDS

    @cached_property
    def _seen(self) -> tuple[list[Entry], dict[str, bytes]] | SourceUnavailable:
        try:
            listing = sorted(super().entries())
            return listing, self._contents(listing)
        except SourceUnavailable as error:
            return error

    def _contents(self, listing: Iterable[Entry]) -> dict[str, bytes]:
        """Return the contents of small objects by their paths."""
        bucket = Bucket(self.url, self.home, self.retry_seconds)

        def request(entry: Entry) -> bytes | None:
            with suppress(FileNotFoundError):  # removed meanwhile
                return _content(bucket, entry.path, entry.version)
            return None

        small = [one for one in listing if "/_" not in one.path]  # files of an attempt may be large
        contents = zip(small, each(request, small, SMALL_THREADS), strict=True)
        return {entry.path: text for entry, text in contents if text is not None}

    def _at_this_moment(self) -> tuple[list[Entry], dict[str, bytes]]:
        if isinstance(self._seen, SourceUnavailable):
            raise self._seen
        return self._seen

    def read(self, path: str) -> bytes:
        """Behave as in `Folder`."""
        _, contents = self._at_this_moment()
        if path not in contents:
            raise FileNotFoundError(path)
        return contents[path]

    def entries(self, prefix: str = "", until: str = "") -> Iterator[Entry]:
        """Behave as in `Folder`."""
        listing, _ = self._at_this_moment()
        start = f"{prefix}/" if prefix else ""
        first, end = (bisect_left(listing, (edge,)) for edge in (start, f"{start}\U0010ffff"))
        yield from listing[first:end]


_process: int | None = None


@lru_cache(MAX_CONTENTS)
def _content(bucket: Bucket, path: str, _version: str) -> bytes:
    return bucket.read(path)


def each(action: Callable[[Item], T], items: Iterable[Item], threads: int = THREADS) -> list[T]:
    """Return the results of a request for each item, in their order, several at once; after one
    that fails no other is begun.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(action, items))


@cache
def _client(url: str, retry_seconds: float) -> Any:
    global _process
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    _process = os.getpid()
    retry: Any = {"max_retries": 100, "retry_timeout": timedelta(seconds=retry_seconds)}
    options: Any = {
        "allow_http": True,
        "connect_timeout": "10s",
        "read_timeout": "60s",
        "timeout": "6h",
    }
    try:
        # What reaches the server (AWS_ENDPOINT_URL, AWS_REGION, credentials) is in the environment.
        return from_url(url, retry_config=retry, client_options=options)
    except (BaseError, ValueError) as error:
        raise InputError(f"store: {url}: {_words(error)}") from error


def _version(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return what names one version of an object for a conditional write."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _explained(address: str, error: Exception) -> Exception:
    kind = type(error).__name__
    if kind in ("AlreadyExistsError", "PreconditionError"):
        return FileExistsError(address)
    text = f"{error} {kind}"
    if refused := _REFUSED.search(text):
        return InputError(
            f"{address}: no credentials, or access is refused ({refused[0]}); set or renew those "
            "of the environment, and run again: what was built is uploaded then"
        )
    said = (_CODE.findall(text) or [_words(error)])[0]
    return SourceUnavailable(
        f"{address}: its server does not answer as it should ({said}); check AWS_ENDPOINT_URL and "
        "the network, and run again: what was built is uploaded then"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split("Debug source")[0].split())[:200]
