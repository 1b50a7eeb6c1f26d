from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import dagster as dg
import pytest
import sqlalchemy
from conftest import leave_writing_to_the_system
from sqlalchemy import Engine, event
from sqlalchemy.pool import NullPool

from react_pipeline.assets.event_databases import MAX_HELD, held_open

NORMAL, FULL = 1, 2


@pytest.fixture(autouse=True)
def _as_outside_of_tests() -> Iterator[None]:
    event.remove(Engine, "connect", leave_writing_to_the_system)
    yield
    event.listen(Engine, "connect", leave_writing_to_the_system)


def instance_at(home: Path) -> dg.DagsterInstance:
    return cast(dg.DagsterInstance, SimpleNamespace(root_directory=str(home)))


def database(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE events (name TEXT)")
    connection.close()
    return path


def write(path: Path) -> int:
    """Add a row as Dagster does, in a connection of its own; returns how commits of it were
    synced.
    """
    with sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=NullPool).connect() as connection:
        connection.exec_driver_sql("INSERT INTO events VALUES ('event')")
        connection.commit()
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())


def rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    count = connection.execute("SELECT count(*) FROM events").fetchone()[0]
    connection.close()
    return int(count)


def test_only_databases_of_the_home_are_written_unsynced(
    tmp_path: Path,
) -> None:
    home, other = (
        database(tmp_path / "home" / "runs.db"),
        database(tmp_path / "mlflow" / "mlflow.db"),
    )
    log = home.with_name("runs.db-wal")
    with held_open(instance_at(tmp_path / "home")):
        assert (write(home), write(home), write(other)) == (NORMAL, NORMAL, FULL)
        assert log.exists() and not other.with_name("mlflow.db-wal").exists()
        assert rows(home) == 2  # for other processes too
    assert not log.exists()
    assert (write(home), rows(home), rows(other)) == (FULL, 3, 1)


def test_only_the_last_databases_stay_open(tmp_path: Path) -> None:
    paths = [database(tmp_path / "home" / f"{number}.db") for number in range(MAX_HELD + 2)]
    with held_open(instance_at(tmp_path / "home")):
        for path in paths:
            write(path)
        left = [path for path in paths if path.with_name(path.name + "-wal").exists()]
        assert left == paths[2:]
    assert [rows(path) for path in paths] == [1] * len(paths)
