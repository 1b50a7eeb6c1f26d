"""The keys of all shards read so far, on disk: a key that an earlier shard holds is a duplicate.

Keys are text of any length and a corpus has hundreds of millions, so they are in a table of SQLite
next to the files being built: 7 to 10 bytes more than the key itself, and `CACHE_KIB` of memory at
the most, however many there are. The table can be made again at any time from what was published or
written, so nothing waits for the disk.
"""

import errno
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE_KIB = 64 << 10
_FIND = "SELECT 1 FROM keys WHERE key = ?"

Duplicates = set[tuple[int, str]]
"""Shard and key."""


class SeenKeys:
    """Keys met so far; used by one thread, and closed by any.

    Where a build fails, it is closed while the thread that reads ahead may still ask. SQLite would
    crash the process then, so closing waits for the question under way, and later ones are refused.
    """

    def __init__(self, path: Path, folders: Sequence[int] | None = None) -> None:
        """Start empty, with a table at `path`; `folders`, one a shard, have their keys to
        themselves.
        """
        self._path = path
        self._folders = folders
        self._open: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._closed = False

    def duplicates(self, keys_by_shard: Mapping[int, Iterable[str]]) -> Duplicates:
        """Which keys an earlier shard holds, of shards in their order; the register stays as it is."""
        here: set[str] = set()
        duplicates: Duplicates = set()
        with self._table() as table:
            for shard, keys in keys_by_shard.items():
                names = {key: self._name(shard, key) for key in keys}
                duplicates |= {
                    (shard, key)
                    for key, name in names.items()
                    if name in here or table.execute(_FIND, (name,)).fetchone()
                }
                here.update(names.values())
        return duplicates

    def add(self, keys_by_shard: Mapping[int, Iterable[str]]) -> None:
        """Take up the keys of some shards."""
        with self._table() as table, table:
            for shard, keys in keys_by_shard.items():
                names = ((self._name(shard, key),) for key in keys)
                table.executemany("INSERT OR IGNORE INTO keys VALUES (?)", names)

    def enter(self, keys_by_shard: Mapping[int, Sequence[str]]) -> Duplicates:
        """Take up the keys of some shards; which of them an earlier shard holds."""
        duplicates = self.duplicates(keys_by_shard)
        self.add(keys_by_shard)
        return duplicates

    def close(self) -> None:
        """Remove the table."""
        with self._lock:
            self._closed = True
            if self._open is not None:
                self._open.close()
                self._open = None
            self._path.unlink(missing_ok=True)

    def _name(self, shard: int, key: str) -> str:
        return key if self._folders is None else f"{self._folders[shard]}/{key}"

    @contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise ValueError("the register of keys is closed")
            try:
                self._open = self._open or self._new_table()
                yield self._open
            except sqlite3.Error as error:
                raise OSError(errno.EIO, str(error), str(self._path)) from error

    def _new_table(self) -> sqlite3.Connection:
        self._path.unlink(missing_ok=True)
        # Closed by another thread than the one that uses it. Without locks, which some disks lack:
        # it is never shared.
        table = sqlite3.connect(
            f"{self._path.as_uri()}?nolock=1", uri=True, check_same_thread=False
        )
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            table.execute(f"PRAGMA {setting}")
        # Keys usually ascend from shard to shard, and then each is put behind the last one.
        table.execute("CREATE TABLE keys (key TEXT PRIMARY KEY) WITHOUT ROWID")
        return table
