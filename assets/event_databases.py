"""Event databases: Dagster's SQLite files, written without waiting for the disk at each of the
hundred events of a run.

Belongs here: how the connections of this process are set. Does not belong here: what is written
(Dagster).
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from sqlalchemy import event
from sqlalchemy.engine import Engine

MAX_HELD = 8
"""Databases that are held open: those of the instance, and those of the last runs."""


@contextmanager
def held_open(instance: dg.DagsterInstance) -> Iterator[None]:
    """Hold the databases below the home of an instance open while the context lasts, and sync them
    at its end.

    Dagster opens a connection for each event, and closing the last one of a database moves its
    write-ahead log into it and waits for the disk, twice. One more connection that stays open
    spares that; `synchronous=NORMAL` spares waiting at each commit. A killed process loses nothing;
    a power cut loses the last events at most, never the database.
    """
    held: OrderedDict[str, sqlite3.Connection] = OrderedDict()
    home = Path(instance.root_directory).resolve()  # as SQLite names its files

    def hold(connection: Any, _record: Any) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        if (
            not Path(path).is_relative_to(home)
            or connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal"
        ):
            return
        connection.execute("PRAGMA synchronous=NORMAL")
        if path not in held:
            held[path] = sqlite3.connect(path, check_same_thread=False)
            # A first query opens the write-ahead log.
            held[path].execute("SELECT count(*) FROM sqlite_master").fetchall()
        held.move_to_end(path)
        if len(held) > MAX_HELD:
            held.popitem(last=False)[1].close()

    event.listen(Engine, "connect", hold)
    try:
        yield
    finally:
        event.remove(Engine, "connect", hold)
        for connection in held.values():
            connection.close()
