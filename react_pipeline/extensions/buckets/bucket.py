"""Requests to object storage: S3, GCS or Azure by obstore, bounded retries, errors as one line.

Does not belong here: what the objects mean (`bucket_store`).
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from react_pipeline.store import InputError, ReactError, SourceUnavailable

RETRY_SECONDS = 180.0
"""A request that is answered 5xx, or not at all, is tried again for so long. obstore renews no
signature between tries, and servers accept one for 5 minutes.
"""
THREADS = 16
"""Requests at once."""
SMALL_THREADS = 64
"""Of small objects."""
MAX_PARTS = 9_000
"""Of one upload; S3 allows 10,000."""
MIN_PART_BYTES = 8 << 20
CLOCKS = ".clock"

_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSALS = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google|MissingCredentials", re.I)

Version = Mapping[str, str]
"""Names one version of an object for `Bucket.replace`."""

T = TypeVar("T")
Item = TypeVar("Item")


class ConflictError(Exception):
    """A conditional write whose condition does not hold."""


@dataclass(frozen=True)
class Stored:
    """An object as its server describes it; `time` is by the clock of the server."""

    path: str
    size: int
    version: Version
    time: datetime


@dataclass(frozen=True)
class Bucket:
    """A prefix of a bucket by its URL. It holds no connection, so it may go to another process."""

    url: str
    retry_seconds: float = RETRY_SECONDS

    def __str__(self) -> str:
        return self.url

    @property
    def brief(self) -> Bucket:
        """The same for what may as well fail: it gives up soon."""
        return replace(self, retry_seconds=5.0)

    def address(self, path: str) -> str:
        """URL of an object."""
        return f"{self.url.rstrip('/')}/{path}"

    def read(self, path: str) -> tuple[bytes, Stored]:
        """Content and description of a small object.

        Raises:
            FileNotFoundError: If there is none.
        """
        with self._named(path) as (library, client):
            answer = library.get(client, path)
            return bytes(answer.bytes()), _stored(answer.meta)

    def create(self, path: str, content: bytes) -> Version:
        """Write an object that is not there.

        Raises:
            ConflictError: If it is there, maybe by this very request, whose answer was lost.
        """
        return self._put(path, content, mode="create")

    def replace(self, path: str, content: bytes, version: Version) -> Version:
        """Write an object again if it still has this version.

        Raises:
            ConflictError: If it has not, maybe because of this very request, or is gone.
        """
        try:
            return self._put(path, content, mode=dict(version))
        except FileNotFoundError as error:  # as some servers answer
            raise ConflictError(self.address(path)) from error

    def write(self, path: str, content: bytes) -> Version:
        """Write an object, whatever is there."""
        return self._put(path, content, mode="overwrite")

    def _put(self, path: str, content: bytes, **options: Any) -> Version:
        with self._named(path) as (library, client):
            return _version(library.put(client, path, content, use_multipart=False, **options))

    def upload(self, path: str, file: Path) -> None:
        """Write a file, in parts if it is large."""
        part = max(MIN_PART_BYTES, file.stat().st_size // MAX_PARTS)
        with self._named(path) as (library, client):
            library.put(client, path, file, chunk_size=part, max_concurrency=4)

    def download(self, path: str, file: Path | None) -> str:
        """SHA-256 of an object, which is written to `file` if one is named.

        Raises:
            FileNotFoundError: If there is none.
        """
        digest = hashlib.sha256()
        with Path(file or os.devnull).open("wb") as target, self._named(path) as (library, client):
            for chunk in library.get(client, path).stream(min_chunk_size=MIN_PART_BYTES):
                digest.update(chunk)
                target.write(chunk)
        return digest.hexdigest()

    def objects(self, prefix: str = "") -> Iterator[Stored]:
        """All objects below a prefix, a thousand a request."""
        with self._named(prefix) as (library, client):
            for page in library.list(client, prefix or None):
                yield from map(_stored, page)

    def all_objects(self) -> list[Stored]:
        """All objects, those of each top folder at the same time: pages follow one another."""
        with self._named("") as (library, client):
            top = library.list_with_delimiter(client)
        below = each(lambda folder: list(self.objects(folder)), top["common_prefixes"])
        return [*map(_stored, top["objects"]), *(one for folder in below for one in folder)]

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; those that are gone already are no error."""
        paths = list(paths)
        with (
            suppress(FileNotFoundError),
            self._named(paths[0] if paths else "") as (library, client),
        ):
            library.delete(client, paths)

    def now(self) -> datetime:
        """The clock of the server, by an object of this process: servers limit writes of one."""
        path = f"{CLOCKS}/{socket.gethostname()}-{os.getpid()}"
        self.write(path, b"")
        with self._named(path) as (library, client):
            return _stored(library.head(client, path)).time

    def require_conditional_writes(self) -> None:
        """Try what a store depends on.

        Raises:
            InputError: If access is refused, or the server ignores conditions.
            SourceUnavailable: If it does not answer.
        """
        path = f".probe/{os.urandom(8).hex()}"
        first = self.create(path, b"1")
        try:
            second = self.replace(path, b"2", first)
            for refused in (
                lambda: self.create(path, b"3"),
                lambda: self.replace(path, b"4", first),
            ):
                try:
                    refused()
                except ConflictError:
                    continue
                raise InputError(
                    f"{self}: its server ignores the conditions of writes, by which exactly one of "
                    "several builders publishes; use a server that knows If-Match and If-None-Match"
                )
            self.replace(path, b"5", second)
        finally:
            self.delete([path])

    @contextmanager
    def _named(self, path: str) -> Iterator[tuple[Any, Any]]:
        """The library and its client; their errors name the object and what to do."""
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
            raise


_process: int | None = None


def each(action: Callable[[Item], T], items: Iterable[Item], threads: int = THREADS) -> Iterator[T]:
    """Results of a request for each item, several at once, in the order of the items; after one
    that fails no other is begun.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(action, items)
    finally:
        pool.shutdown(cancel_futures=True)


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
        "backoff": {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=10),
            "base": 2,
        },
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


def _stored(meta: Mapping[str, Any]) -> Stored:
    return Stored(meta["path"], meta["size"], _version(meta), meta["last_modified"])


def _version(meta: Mapping[str, Any]) -> Version:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _explained(address: str, error: Exception) -> Exception:
    kind, text = type(error).__name__, str(error)
    if kind in ("AlreadyExistsError", "PreconditionError"):
        return ConflictError(address)
    codes = _CODE.findall(text)
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or _REFUSALS.intersection(codes):
        return InputError(
            f"{address}: access is refused ({(codes or [kind])[0]}); renew or correct the "
            "credentials of the environment, and run again: what was built is uploaded then"
        )
    if _NO_CREDENTIALS.search(text):
        return InputError(f"{address}: no credentials found; set them in the environment")
    return SourceUnavailable(
        f"{address}: its server does not answer as it should ({(codes or [_words(error)])[0]}); "
        "check AWS_ENDPOINT_URL and the network, and run again: what was built is uploaded then"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split("Debug source")[0].split())[:200]
