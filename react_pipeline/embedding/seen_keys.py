"""The keys of all shards read so far, on disk: a key that an earlier shard holds is a duplicate.

Keys are text of any length and a corpus has hundreds of millions, so they are in a table of SQLite
next to the files being built: 7 to 10 bytes more than the key itself, and `CACHE_KIB` of memory at
the most, however many there are. The table can be made again at any time from what was published or
written, so nothing waits for the disk.
"""

import errno
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE_KIB = 64 << 10
_FIND = "SELECT 1 FROM keys WHERE key = ?"


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

    def duplicates(self, shard: int, keys: Iterable[str]) -> set[str]:
        """Which keys of a shard an earlier one holds; the register stays as it is."""
        with self._table() as table:
            return {
                key for key in keys if table.execute(_FIND, (self._name(shard, key),)).fetchone()
            }

    def add(self, shard: int, keys: Iterable[str]) -> None:
        """Take up the keys of a shard."""
        with self._table() as table, table:
            names = ((self._name(shard, key),) for key in keys)
            table.executemany("INSERT OR IGNORE INTO keys VALUES (?)", names)

    def enter(self, shard: int, keys: Sequence[str]) -> set[str]:
        """Take up the keys of a shard; which of them an earlier one holds."""
        duplicates = self.duplicates(shard, keys)
        self.add(shard, keys)
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
