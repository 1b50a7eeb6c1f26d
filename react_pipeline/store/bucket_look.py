"""Looks at object storage: a listing of one moment, and what its small objects say.

Does not belong here: anything that reads files of an artifact.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

from react_pipeline.store.bucket import Bucket, each, entry_of, is_head
from react_pipeline.store.durable import CACHE
from react_pipeline.store.errors import SourceUnavailable
from react_pipeline.store.folder import Entry

LOOK_SECONDS = 10.0
"""How long a look waits for the server, beside a last pause between tries (15 s): ticks are cut off
after 60 seconds, and those that go on nevertheless keep the code server from answering Dagster,
which then ends it.
"""
SMALL_THREADS = 64
"""Requests for small objects at once."""


@dataclass(frozen=True)
class BucketLook(Bucket):
    """A bucket at one moment: a listing, and requests only for small objects that changed since the
    last look of this machine. A server that is away is waited for once.
    """

    retry_seconds: float = LOOK_SECONDS

    @cached_property
    def _seen(self) -> tuple[list[Entry], dict[str, bytes]] | SourceUnavailable:
        try:
            listing = sorted(self._list())
            return listing, self._contents(listing)
        except SourceUnavailable as error:
            return error

    def _list(self) -> Iterator[Entry]:
        """Yield all objects; those of each top folder are listed at the same time, since pages
        follow one another.
        """
        with self._named("") as (library, client):
            top = library.list_with_delimiter(client)
        yield from map(entry_of, top["objects"])
        list_below = super().entries
        for below in each(lambda folder: list(list_below(folder)), top["common_prefixes"]):
            yield from below

    def _contents(self, listing: Iterable[Entry]) -> dict[str, bytes]:
        """Contents of small objects by their paths; this machine keeps them with their versions."""
        small = (entry for entry in listing if is_head(entry) or entry.path.startswith(".notes/"))
        versions = {entry.path: entry.version for entry in small}

        def request(path: str) -> tuple[str, str, bytes] | None:
            try:
                content, meta = self._get(path)
            except FileNotFoundError:  # removed meanwhile
                return None
            return path, entry_of(meta).version, content

        cache = self.home / CACHE / "objects.db"
        cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache, timeout=60)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS objects (path PRIMARY KEY, version, content)"
            )
            rows = database.execute("SELECT path, version, content FROM objects").fetchall()
            known = {path: text for path, version, text in rows if versions.get(path) == version}
            new = [*filter(None, each(request, versions.keys() - known.keys(), SMALL_THREADS))]
            gone = [(path,) for path, *_ in rows if path not in versions]
            database.executemany("DELETE FROM objects WHERE path = ?", gone)
            database.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", new)
        return known | {path: content for path, _, content in new}

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

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Behave as in `Folder`."""
        listing, _ = self._at_this_moment()
        start = f"{prefix}/" if prefix else ""
        first, end = (bisect_left(listing, (edge,)) for edge in (start, f"{start}\U0010ffff"))
        yield from listing[first:end]
