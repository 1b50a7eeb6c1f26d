"""Shards on object stores and web servers: opened like files, identified without being read.

Does not belong here: single requests (`remote_store`), which names are allowed
(`settings.shard_patterns`), what a tar holds (`corpus.shards`). Everything else opens shards
through
`corpus.open_shard`, which takes local paths too.
"""

import hashlib
import io
import logging
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from react_pipeline.corpus import Identity, RemoteShard
from react_pipeline.extensions.web.remote_store import attempt, file_system
from react_pipeline.settings import StorageConfig, expand, has_wildcard
from react_pipeline.store import CorpusError

READ_THROUGH_BYTES = 256 << 10
"""A shorter gap between two reads is fetched too: a request of its own costs as much as its
transfer.
"""
SMALLEST_FETCH_BYTES = 32 << 10
LARGEST_FETCH_BYTES = 8 << 20

_BUFFER_BYTES = 8 << 10
_SAMPLED_BYTES = 1 << 20
_TAGS = ("md5Hash", "Content-MD5", "ETag", "etag", "Last-Modified")
logger = logging.getLogger(__name__)


class RemoteServer:
    """Object stores and web servers, by fsspec."""

    def find(self, pattern: str, storage: StorageConfig, field: str) -> list[RemoteShard]:
        """The shards that a URL, or a pattern of some, names; only buckets are asked."""
        all_shards: list[RemoteShard] = []
        for url in expand(pattern):
            shard = RemoteShard(url, storage)
            shards = list_tars(shard) if has_wildcard(url) else [shard]
            if not shards or not all(shard.url.endswith(".tar") for shard in shards):
                raise CorpusError(
                    f"{field}: {url!r} finds no .tar file; give tar files or patterns such as *.tar"
                )
            all_shards += shards
        return all_shards

    def open(self, shard: RemoteShard) -> BinaryIO:
        """Open a remote shard for reading, with seeks.

        The read-ahead grows while reading is dense and shrinks at every jump of more than
        `READ_THROUGH_BYTES`, so that headers between large images cost little and small images come
        in large pieces.

        Raises:
            CorpusError: If the server serves no ranges, or does not say a length.
        """
        return io.BufferedReader(_RangedFile(shard), _BUFFER_BYTES)

    def identify(self, shard: RemoteShard) -> Identity:
        """Size and tag, by one request where the server reports them."""
        info = _info(shard)
        tag = next((f"{name}:{info[name]}" for name in _TAGS if info.get(name)), "")
        size, tag = (
            (int(info["size"]), tag)
            if tag and info.get("size") is not None
            else _read_identity(shard)
        )
        path = urlsplit(shard.url).path if shard.url.startswith("http") else ""
        return Identity(size, tag, hashlib.sha256(f"{size}:{tag}:{path}".encode()).hexdigest())


def _read_identity(shard: RemoteShard) -> tuple[int, str]:
    raw = _RangedFile(shard)
    with io.BufferedReader(raw, _BUFFER_BYTES) as file:
        head = file.read(_SAMPLED_BYTES)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _SAMPLED_BYTES))
        tail = file.read()
        return size, f"sampled:{hashlib.sha256(head + tail).hexdigest()}"


def list_tars(pattern: RemoteShard) -> list[RemoteShard]:
    """The tar files of a bucket that match a pattern with `*`, `**` or `[ab]`, sorted."""
    scheme = pattern.url.partition("://")[0]
    names = attempt(pattern, lambda: file_system(pattern).glob(pattern.url))
    return [
        RemoteShard(f"{scheme}://{name}", pattern.storage)
        for name in sorted(names)
        if name.endswith(".tar")
    ]


class _RangedFile(io.RawIOBase):
    """Reads by range, with a read-ahead that follows the way in which it is read."""

    def __init__(self, shard: RemoteShard) -> None:
        self.shard = shard
        self.name = shard.url
        self._position = 0
        self._start = 0
        self._block = b""
        self._fetch_bytes = SMALLEST_FETCH_BYTES // 2
        info = _info(shard)
        if info.get("size") is None or info.get("partial", True) is False:
            raise _no_ranges(shard)
        self._size = int(info["size"])
        fs = file_system(shard)
        # fsspec's http would ask for the size once more.
        options = {"size": self._size} if shard.url.startswith("http") else {}
        self._handle = attempt(
            shard, lambda: fs.open(shard.url, "rb", block_size=1, cache_type="none", **options)
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"{self.shard}: a seek to byte {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._position))
        if not size:
            return 0
        data = self._read(size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._handle.close()
        super().close()

    def _read(self, size: int) -> bytes:
        inside = self._position - self._start
        if inside < 0 or inside + size > len(self._block):
            self._fetch(size)
            inside = self._position - self._start
        return self._block[inside : inside + size]

    def _fetch(self, size: int) -> None:
        gap = self._position - (self._start + len(self._block))
        dense = -LARGEST_FETCH_BYTES < gap <= READ_THROUGH_BYTES
        self._fetch_bytes = (
            min(2 * self._fetch_bytes, LARGEST_FETCH_BYTES) if dense else SMALLEST_FETCH_BYTES
        )
        # What the buffer above asks for next is fetched along.
        end = min(self._position + max(size + _BUFFER_BYTES, self._fetch_bytes), self._size)
        self._block = attempt(self.shard, lambda: self._range(self._position, end))
        self._start = self._position

    def _range(self, start: int, end: int) -> bytes:
        try:
            self._handle.seek(start)
            data: bytes = self._handle.read(end - start)
        except ValueError as error:
            # fsspec's message for a server that answers a range with the whole.
            if "range requests" in str(error):
                raise _no_ranges(self.shard) from error
            raise
        if len(data) != end - start:
            raise ConnectionError(f"received {len(data):,} of {end - start:,} bytes")
        return data


def _no_ranges(shard: RemoteShard) -> CorpusError:
    return CorpusError(
        f"{shard}: its server serves no ranges; copy the shards to a disk or a bucket, and name "
        "those"
    )


def _info(shard: RemoteShard) -> dict[str, Any]:
    info: dict[str, Any] = attempt(shard, lambda: file_system(shard).info(shard.url))
    if info.get("type") == "directory":
        raise CorpusError(
            f"{shard}: is a folder, not a tar; write a pattern such as "
            f"{shard.url.rstrip('/')}/*.tar"
        )
    return info
