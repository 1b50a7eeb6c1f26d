"""Shards on servers. An extension knows how a server is reached (`Extension.servers`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from react_pipeline.extension import brought_by_name
from react_pipeline.settings import StorageConfig
from react_pipeline.store import CorpusError

PARALLEL_REQUESTS = 16
T = TypeVar("T")


class Identity(NamedTuple):
    """Identifies a remote shard, so that a changed one is noticed.

    Attributes:
        tag: A checksum or ETag of the store; else the time of its last change; where a server
            reports none of these, a digest of the first and the last MiB (of everything, if it does
            not serve ranges).
        digest: 64 hexadecimal digits over both and, on a web server, whose ETag is often just size
            and time of change, the path of the URL; used in place of the SHA-256 of a local shard's
            bytes.
    """

    size_bytes: int
    tag: str
    digest: str


@dataclass(frozen=True)
class RemoteShard:
    """A shard by its URL and the way to its store. It holds no connection, so it may go to another
    process.
    """

    url: str
    storage: StorageConfig = StorageConfig()

    def __str__(self) -> str:
        return self.url


class Server(Protocol):
    """How the servers of some schemes are reached.

    Every method raises a CorpusError if what it asks for is not there or access is refused, and
    SourceUnavailable if the server does not answer.
    """

    def find(self, pattern: str, storage: StorageConfig, field: str) -> list[RemoteShard]:
        """The shards that a URL or a pattern names; `field` is for the message."""

    def open(self, shard: RemoteShard) -> BinaryIO:
        """Open a shard for reading, with seeks."""

    def identify(self, shard: RemoteShard) -> Identity:
        """Size and tag of a shard."""


@cache
def _servers() -> Mapping[str, Server]:
    return brought_by_name(lambda extension: extension.servers())


def server_of(url: str) -> Server:
    """How the server of a URL is reached.

    Raises:
        CorpusError: If no extension knows it.
    """
    scheme = url.partition("://")[0]
    try:
        return _servers()[scheme]
    except KeyError:
        raise CorpusError(
            f"{url}: no extension reads {scheme}://; install the extension `web`, or copy the files"
        ) from None


def each(function: Callable[[RemoteShard], T], shards: list[RemoteShard]) -> Iterator[T]:
    """Call a function that waits for a server on many shards at once; results in their order."""
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        yield from pool.map(function, shards)


def identify(shard: RemoteShard) -> Identity:
    """Size and tag of a shard on a server."""
    return server_of(shard.url).identify(shard)
