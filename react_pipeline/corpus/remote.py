"""Shards on object stores and web servers, by obstore: opened like files, identified without being
read. A shard is its URL; what else reaches its store (region, endpoint, credentials) is in the
environment.

Does not belong here: which names are allowed (`settings.addresses`), what a tar holds
(`shards`), images at addresses that strangers wrote (`extensions.sources`).
"""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from react_pipeline.settings import expand, has_wildcard
from react_pipeline.store import CorpusError, SourceUnavailable

RETRIES = 6
"""After pauses of 0.1 s, which double."""
ANSWER_SECONDS = 120
"""For one answer as a whole."""

READ_THROUGH_BYTES = 256 << 10
"""A shorter gap between two reads is fetched too: a request of its own costs as much as its
transfer.
"""
SMALLEST_FETCH_BYTES = 32 << 10
LARGEST_FETCH_BYTES = 8 << 20

_CREDENTIALS = "the credentials of the environment (public buckets: AWS_SKIP_SIGNATURE=true)"


class Identity(NamedTuple):
    """Identifies a remote shard, so that a changed one is noticed.

    Attributes:
        digest: 64 hexadecimal digits over size, ETag (else the time of the last change) and, on a
            web server, whose ETag is often just size and time of change, the path of the URL; used
            in place of the SHA-256 of a local shard's bytes.
    """

    size_bytes: int
    digest: str


def find_remote(pattern: str, field: str) -> list[str]:
    """Return the shards that a URL, or a pattern of some, names; only buckets are asked.

    Raises:
        CorpusError: If it finds no tar.
        SourceUnavailable: If an object store does not answer.
    """
    found: list[str] = []
    for url in expand(pattern):
        shards = _list_tars(url) if has_wildcard(url) else [url]
        if not shards or not shards[0].endswith(".tar"):
            raise CorpusError(
                f"{field}: {url!r} finds no .tar file; give tar files or patterns such as *.tar"
            )
        found += shards
    return found


def identify(shard: str) -> Identity:
    """Return what identifies a shard, by one request.

    Raises:
        CorpusError: If the server reports neither an ETag nor a time.
    """
    head = _head(shard)
    size = head["size"]
    if head["e_tag"]:
        tag = f"ETag:{head['e_tag']}"
    elif head["last_modified"].timestamp():  # 0 where the server does not say it
        tag = f"Last-Modified:{head['last_modified']}"
    else:
        raise CorpusError(
            f"{shard}: its server reports neither ETag nor Last-Modified, so a change would not be "
            "noticed; copy the shards to a disk or a bucket, and name those"
        )
    path = urlsplit(shard).path if shard.startswith("http") else ""
    return Identity(size, hashlib.sha256(f"{size}:{tag}:{path}".encode()).hexdigest())


def _list_tars(pattern: str) -> list[str]:
    """Return the tar files of a bucket that match a pattern with `*`, `**` or `[ab]`, sorted."""
    from fsspec.utils import glob_translate  # type: ignore[import-untyped]

    server, path = _split(pattern)
    plain = re.split(r"[*\[]", path)[0].rpartition("/")[0]
    with _client(pattern) as (library, client, _):
        matches = re.compile(glob_translate(path)).match
        names = sorted(entry["path"] for entry in chain.from_iterable(library.list(client, plain)))
    return [f"{server}/{name}" for name in names if name.endswith(".tar") and matches(name)]


class RemoteFile(io.RawIOBase):
    """A remote shard, read by range.

    The read-ahead grows while reading is dense and shrinks at every jump of more than
    `READ_THROUGH_BYTES`, so that headers between large images cost little and small images come
    in large pieces.
    """

    def __init__(self, shard: str) -> None:
        """Open a shard.

        Raises:
            CorpusError: If it is not there, or (reading) its server serves no ranges.
        """
        self.name = shard
        self._size = _head(shard)["size"]
        self._position = self._start = 0
        self._block = b""
        self._fetch_bytes = SMALLEST_FETCH_BYTES // 2

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move without reading."""
        self._position = offset + {io.SEEK_CUR: self._position, io.SEEK_END: self._size}.get(
            whence, 0
        )
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read what is in a block, or fetch one."""
        size = max(0, min(len(buffer), self._size - self._position))
        inside = self._position - self._start
        if size and not 0 <= inside <= len(self._block) - size:
            self._fetch(size)
            inside = 0
        buffer[:size] = self._block[inside : inside + size]
        self._position += size
        return size

    def _fetch(self, size: int) -> None:
        gap = self._position - (self._start + len(self._block))
        dense = -LARGEST_FETCH_BYTES < gap <= READ_THROUGH_BYTES
        self._fetch_bytes = (
            min(2 * self._fetch_bytes, LARGEST_FETCH_BYTES) if dense else SMALLEST_FETCH_BYTES
        )
        end = min(self._position + max(size, self._fetch_bytes), self._size)
        self._block = _read_range(self.name, self._position, end)
        self._start = self._position


def _head(shard: str) -> Any:
    with _client(shard) as (library, client, path):
        return library.head(client, path)


def _read_range(shard: str, start: int, end: int) -> bytes:
    data = bytearray()
    with _client(shard) as (library, client, path):
        for part in library.get(client, path, options={"range": (start, end)}):
            data += part
            if len(data) > end - start:
                break
    if len(data) != end - start:
        raise SourceUnavailable(f"{shard}: received {len(data):,} of {end - start:,} bytes")
    return bytes(data)


@contextmanager
def _client(shard: str) -> Iterator[tuple[Any, Any, str]]:
    """Give obstore, its client of the server, and the path there; errors name the shard.

    Raises:
        CorpusError: If another attempt would fail too.
        SourceUnavailable: If it might not.
    """
    import obstore
    from obstore import exceptions

    server, path = _split(shard)
    try:
        yield obstore, _open_client(server), path
    except FileNotFoundError as error:
        raise CorpusError(f"{shard}: is not there; correct the address") from error
    except exceptions.NotSupportedError as error:
        raise CorpusError(
            f"{shard}: its server serves no ranges; copy the shards to a disk or a bucket, and "
            "name those"
        ) from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise CorpusError(f"{shard}: access is refused; check {_CREDENTIALS}") from error
    except (exceptions.BaseError, ValueError) as error:
        words = " ".join(str(error).partition("Debug source")[0].split())[:300]
        passes = "retries" in words or "response body" in words
        kind = SourceUnavailable if passes else CorpusError
        raise kind(
            f"{shard}: cannot be read ({words}); check the address, the network, and {_CREDENTIALS}"
        ) from error


def _split(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", unquote(path) if scheme.startswith("http") else path


@lru_cache
def _open_client(server: str) -> Any:
    from obstore.store import HTTPStore, from_url

    options: Any = {
        "timeout": timedelta(seconds=ANSWER_SECONDS),
        "connect_timeout": "15s",
        "allow_http": True,
    }
    retries: Any = {"max_retries": RETRIES}
    # `from_url` would take some hosts of the web for buckets, with the user's credentials.
    opened: Any = HTTPStore.from_url if server.startswith("http") else from_url
    return opened(server, client_options=options, retry_config=retries)
