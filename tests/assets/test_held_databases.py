from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from conftest import leave_writing_to_the_system
from sqlalchemy import Engine, event
from sqlalchemy.pool import NullPool

from react_pipeline.assets.launch import HELD_DATABASES, held_open

NORMAL, FULL = 1, 2


@pytest.fixture(autouse=True)
def _as_outside_of_tests() -> Iterator[None]:
    event.remove(Engine, "connect", leave_writing_to_the_system)
    yield
    event.listen(Engine, "connect", leave_writing_to_the_system)


def database(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE events (name TEXT)")
    connection.close()
    return path


def write(path: Path) -> int:
    """Add a row as Dagster does, in a connection of its own; returns how commits are synced."""
    with sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=NullPool).connect() as connection:
        connection.exec_driver_sql("INSERT INTO events VALUES ('event')")
        connection.commit()
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())


def has_log(path: Path) -> bool:
    return path.with_name(f"{path.name}-wal").exists()


def test_databases_of_the_home_are_held_open_and_synced_at_the_end(tmp_path: Path) -> None:
    home = tmp_path / "home"
    own = [database(home / f"{number}.db") for number in range(HELD_DATABASES + 1)]
    other = database(tmp_path / "mlflow" / "mlflow.db")
    with held_open(home):
        assert {write(path) for path in own} == {NORMAL}
        assert write(other) == FULL
        assert [path for path in (*own, other) if has_log(path)] == own[1:]
    assert not any(map(has_log, own))
    assert write(own[0]) == FULL
