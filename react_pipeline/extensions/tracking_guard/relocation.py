"""Relocation: MLflow's absolute paths follow a project that was moved or copied.

MLflow keeps the absolute location of the files of every experiment, run and model. In a moved
project they lead nowhere, and in a copy they lead into the original, which the copy would then
write to. A project keeps the files in `FILES` next to its SQLite database, so the database itself
shows that it is at another place than it was.

Does not belong here: when the database is opened (`react_pipeline.tracking`).
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from react_pipeline.store import ReactError
from react_pipeline.tracking import FILES

logger = logging.getLogger(__name__)

_HISTORIES = ("metrics", "spans")
"""Suffixes of the names of tables that hold no location and may have millions of rows."""


def former_folder(location: str, folder: Path) -> Path | None:
    """The folder that a location `file:///.../mlartifacts` is in; None if it is `folder`, or no
    such location.

    A folder that is reached by two paths (a link, a second mount) is the same one.
    """
    parts = urlsplit(location)
    former = Path(unquote(parts.path))
    if parts.scheme != "file" or former.name != FILES or former.parent == folder:
        return None
    for one, other in ((former, folder / FILES), (former.parent, folder)):
        with suppress(OSError):  # one of them is not there
            if one.samefile(other):
                return None
    return former.parent


def require_here(experiment: Any, files: Path) -> None:
    """Refuse an experiment of a project at another place: a database on a server, unlike a file,
    does not show whether the project was moved or copied.

    Raises:
        ReactError: Saying what to do in either case.
    """
    if former := former_folder(experiment.artifact_location, files.parent.resolve()):
        raise ReactError(
            f"the files of experiment {experiment.name!r} are in {former / FILES}, of a project at "
            "another place. Is this a copy: set another `project` in pipeline.yaml. Was it moved: "
            f"mkdir -p {former}; ln -s {files} {former}"
        )


def relocate(database: Path) -> None:
    """Rewrite the locations in a SQLite database of MLflow, in one transaction, if it is at another
    place than before.

    Raises:
        sqlite3.Error: If the database cannot be written; it is as it was then.
    """
    folder = database.parent.resolve()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        locations = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        places = {former_folder(str(location), folder) for (location,) in locations}
        former = sorted(filter(None, places))
        if not former:
            return
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            for old in former:
                _rewrite(connection, old, folder)
    for old in former:
        logger.warning(
            "%s was at %s before: MLflow's locations now name the new place", folder, old
        )


def _rewrite(connection: sqlite3.Connection, old: Path, new: Path) -> None:
    # A location is a URI, a plain path (a tag), or a path within JSON (the source of a data set).
    prefixes = [(old.as_uri(), new.as_uri()), (str(old), str(new))]
    within = (f'"{json.dumps(str(old))[1:-1]}/', f'"{json.dumps(str(new))[1:-1]}/')

    def relocated(text: Any) -> Any:
        if not isinstance(text, str):  # nothing, or a number that is JSON
            return text
        for before, after in prefixes:
            if text == before or text.startswith(f"{before}/"):
                return after + text.removeprefix(before)
        return text.replace(*within)

    connection.create_function("relocated", 1, relocated, deterministic=True)
    for table, columns in _texts(connection):
        for column in columns:
            connection.execute(
                f'UPDATE "{table}" SET "{column}" = relocated("{column}")'  # noqa: S608 - names of the schema
                f' WHERE "{column}" <> relocated("{column}")'
            )


def _texts(connection: sqlite3.Connection) -> Iterable[tuple[str, list[str]]]:
    """The text columns of each table: a later MLflow may keep locations in other columns."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        if not table.endswith(_HISTORIES):
            columns = connection.execute(
                "SELECT name, type FROM pragma_table_info(?)", (table,)
            ).fetchall()
            yield (
                table,
                [name for name, kind in columns if kind.startswith(("VARCHAR", "TEXT", "JSON"))],
            )
