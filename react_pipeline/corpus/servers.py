"""Shards on servers: what is asked of one. `extensions.web` reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from react_pipeline.settings import REMOTE_SCHEMES, StorageConfig
from react_pipeline.store import CorpusError

if TYPE_CHECKING:
    from react_pipeline.extensions.web import RemoteServer

PARALLEL_REQUESTS = 16
T = TypeVar("T")


class Identity(NamedTuple):
    """Identifies a remote shard, so that a changed one is noticed.

    Attributes:
        tag: The ETag; else the time of the last change; where a server reports neither, a digest of
            the first and the last MiB.
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


def server_of(url: str) -> RemoteServer:
    """Return the client of a URL's server, which can `find`, `open` and `identify` shards.

    Raises:
        CorpusError: If its scheme is not supported.
    """
    scheme = url.partition("://")[0]
    if scheme not in REMOTE_SCHEMES:
        schemes = ", ".join(f"{one}://" for one in REMOTE_SCHEMES)
        raise CorpusError(f"{url}: only {schemes} can be read; copy the files")
    from react_pipeline.extensions.web import RemoteServer

    return RemoteServer()


def each(function: Callable[[RemoteShard], T], shards: list[RemoteShard]) -> Iterator[T]:
    """Call a function that waits for a server on many shards at once; results in their order."""
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        yield from pool.map(function, shards)


def identify(shard: RemoteShard) -> Identity:
    """Return size and tag of a shard on a server."""
    return server_of(shard.url).identify(shard)
