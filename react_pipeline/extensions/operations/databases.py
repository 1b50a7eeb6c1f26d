"""Databases: a consistent copy of SQLite and PostgreSQL while others write, and the way back.

Does not belong here: which databases a project has (`backup`).
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from react_pipeline.store import InputError

_HEADER = b"SQLite format 3\x00"


def is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database."""
    with path.open("rb") as file:
        return file.read(len(_HEADER)) == _HEADER


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, with what its journal holds.

    Raises:
        InputError: If the copy is damaged, as the original then is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as original,
        closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with no journal next to it
        (answer,) = copy.execute("PRAGMA integrity_check").fetchone()
    if answer != "ok":
        raise InputError(f"{source}: damaged: {answer}")


def is_postgres(url: str) -> bool:
    """Whether an address, as SQLAlchemy writes them, is of PostgreSQL."""
    return url.partition("://")[0].partition("+")[0] in ("postgresql", "postgres")


def dump_postgres(url: str, target: Path) -> None:
    """Write a database as it is at one moment, in the format of `pg_restore`.

    Raises:
        InputError: If `pg_dump` is missing, or fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _run(["pg_dump", "--format=custom", "--no-owner", f"--file={target}"], url)


def restore_postgres(source: Path, url: str) -> None:
    """Fill an empty database; nothing is changed in one that is not.

    Raises:
        InputError: If `pg_restore` is missing, or fails.
    """
    whole = ["--no-owner", "--exit-on-error", "--single-transaction"]
    _run(["pg_restore", *whole, f"--dbname={_environment(url)['PGDATABASE']}", str(source)], url)


def apart(url: str) -> tuple[str, dict[str, str]]:
    """An address without its password, and the variable that holds that, for a command line."""
    password = urlsplit(url).password
    if password is None:
        return url, {}
    return url.replace(f":{password}@", "@", 1), {"PGPASSWORD": unquote(password)}


def _environment(url: str) -> dict[str, str]:
    """What PostgreSQL's programs read, so that no password is in a command line."""
    parts = urlsplit(url)
    values = {
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username,
        "PGPASSWORD": parts.password,
        "PGDATABASE": parts.path.lstrip("/"),
    }
    return {name: unquote(value) for name, value in values.items() if value}


def _run(command: list[str], url: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            command, env={**os.environ, **_environment(url)}, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]} is not installed: it comes with PostgreSQL's client programs, of the "
            "server's version or later"
        ) from error
    if done.returncode:
        place = f"{urlsplit(url).hostname}/{_environment(url).get('PGDATABASE', '')}"
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{command[0]} of {place}: {lines[0]}")
