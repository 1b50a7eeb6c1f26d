"""What the system refuses, a file or a database that cannot be written, is one line of every
command.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from react_pipeline import __version__
from react_pipeline.commands import cli


def read_only_database(folder: Path) -> None:
    sqlite3.connect(folder / "store").close()
    with sqlite3.connect(f"file:{folder / 'store'}?mode=ro", uri=True) as connection:
        try:
            connection.execute("CREATE TABLE made (name)")
        except sqlite3.Error as error:
            raise OperationalError("CREATE TABLE", {}, error) from error


def refused(number: int) -> Callable[[Path], None]:
    def refuse(folder: Path) -> None:
        try:
            raise OSError(number, os.strerror(number), str(folder / "store"))
        except OSError as error:
            raise RuntimeError("a library's own error") from error

    return refuse


def no_memory(_folder: Path) -> None:
    raise MemoryError("no store")


def damaged_database(folder: Path) -> None:
    (folder / "store").write_bytes(b"no database" * 100)
    sqlite3.connect(folder / "store").execute("PRAGMA schema_version")


def locked_database(folder: Path) -> None:
    first, second = (sqlite3.connect(folder / "store", timeout=0) for _ in range(2))
    first.execute("BEGIN EXCLUSIVE")
    second.execute("CREATE TABLE made (name)")


REFUSALS: dict[Callable[[Path], None], str] = {
    refused(errno.EACCES): "writable",
    refused(errno.ENOSPC): "free space",
    refused(errno.EMFILE): "ulimit -n",
    read_only_database: "database",
    no_memory: "out of memory",
    damaged_database: "restore or remove it",
    locked_database: "the process that holds it",
}


@pytest.mark.parametrize("refuse", REFUSALS)
def test_what_the_system_refuses_takes_a_line(
    refuse: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "store").touch()
    monkeypatch.setattr(cli, "load_project", lambda *_: refuse(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main(["materialize"])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith("error: ") and REFUSALS[refuse] in line


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(cli, "load_project", fail)
    with pytest.raises(ValueError, match="a fault"):
        cli.main(["materialize"])


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((256, 512), [(512, 512)]),
        ((256, 1_000_000), [(4_096, 1_000_000)]),
        ((256, -1), [(4_096, -1)]),
        ((9_000, -1), []),
    ],
)
def test_the_limit_of_open_files_is_raised(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limits: tuple[int, int],
    expected: list[tuple[int, int]],
) -> None:
    allowed: list[tuple[int, int]] = []
    monkeypatch.setattr(cli.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(cli.resource, "setrlimit", lambda _, given: allowed.append(given))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and __version__ in capsys.readouterr().out
    assert allowed == expected
