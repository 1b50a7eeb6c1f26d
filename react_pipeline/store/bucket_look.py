"""Looks at object storage: a listing of one moment.

Belongs here: what a listing and small objects say. Does not belong here: anything that reads files
of an artifact.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, takewhile
from typing import Any

from react_pipeline.store.bucket import Bucket, each, entry_of, is_head
from react_pipeline.store.errors import SourceUnavailable
from react_pipeline.store.folder import CURRENT, MANIFEST, Entry

LOOK_SECONDS = 10.0
"""How long a look waits for the server, and the last pause between tries as long again: ticks are
cut off after 60 seconds, and those that go on nevertheless keep the code server from answering
Dagster, which then ends it.
"""
SMALL_THREADS = 64
"""Requests for small objects at once."""


@dataclass(frozen=True)
class BucketLook(Bucket):
    """A bucket at one moment: a listing, and requests only for small objects that changed since the
    last look of this machine. A server that is away is waited for once.
    """

    retry_seconds: float = LOOK_SECONDS
    faults: list[SourceUnavailable] = field(default_factory=list, compare=False)

    @cached_property
    def _listing(self) -> dict[str, Entry]:
        """All objects by their paths, in order; those of each top folder are listed at the same
        time, since pages follow one another.
        """
        with self._named("") as (library, client):
            top = library.list_with_delimiter(client)
        below = each(
            lambda folder: list(super(BucketLook, self).entries(folder)), top["common_prefixes"]
        )
        entries = [*map(entry_of, top["objects"]), *(one for folder in below for one in folder)]
        return {entry.path: entry for entry in sorted(entries)}

    @cached_property
    def _paths(self) -> list[str]:
        return list(self._listing)

    def version(self, path: str) -> str:
        """As of `Folder`."""
        if path not in self._listing:
            raise FileNotFoundError(path)
        return self._listing[path].version

    def read(self, path: str) -> bytes:
        """As of `Folder`."""
        if path not in self._contents:
            raise FileNotFoundError(path)
        return self._contents[path]

    def entries(self, prefix: str) -> Iterator[Entry]:
        """As of `Folder`."""
        start = f"{prefix}/" if prefix else ""
        paths = islice(self._paths, bisect_left(self._paths, start), None)
        return map(self._listing.__getitem__, takewhile(lambda path: path.startswith(start), paths))

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        """The contents of small objects, by their paths; this machine keeps them with their
        versions.
        """
        versions = {
            path: entry.version
            for path, entry in self._listing.items()
            if path.startswith(".notes/")
            or (path.endswith((f"/{MANIFEST}", f"/{CURRENT}")) and is_head(entry))
        }
        cache = self.home / ".cache" / "objects.db"
        cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(cache, timeout=60)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS objects (path PRIMARY KEY, version, content)"
            )
            rows = database.execute("SELECT path, version, content FROM objects").fetchall()
        contents = {path: text for path, version, text in rows if versions.get(path) == version}

        def request(path: str) -> tuple[str, str, bytes] | None:
            try:
                content, version = self._get(path)
            except FileNotFoundError:  # removed meanwhile
                return None
            return path, str(version), content

        new = list(filter(None, each(request, versions.keys() - contents.keys(), SMALL_THREADS)))
        gone = [(path,) for path, *_ in rows if path not in versions]
        with closing(sqlite3.connect(cache, timeout=60)) as database, database:
            database.executemany("DELETE FROM objects WHERE path = ?", gone)
            database.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", new)
        return contents | {path: content for path, _, content in new}

    @contextmanager
    def _named(self, path: str) -> Iterator[tuple[Any, Any]]:
        if self.faults:
            raise self.faults[0]
        try:
            with super()._named(path) as named:
                yield named
        except SourceUnavailable as error:
            self.faults.append(error)
            raise
