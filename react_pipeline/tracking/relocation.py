"""MLflow's absolute paths follow a project that was moved or copied.

MLflow keeps the absolute location of the files of every experiment, run and model. In a moved
project they lead nowhere, and in a copy they lead into the original, which the copy would then
write to.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from react_pipeline.store import ReactError

logger = logging.getLogger(__name__)

FILES = "mlartifacts"
"""Folder of the runs' files, where no server keeps them."""

_COLUMNS = """
SELECT tables.name, columns.name
FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns
WHERE tables.type = 'table' AND tables.name NOT LIKE '%metrics' AND tables.name <> 'spans'
AND (columns.type LIKE 'VARCHAR%' OR columns.type LIKE 'TEXT%')
"""
"""All columns of texts, since a later MLflow may keep locations in others; not those of tables with
millions of rows, which have no location.
"""


def follow_project(location: str, files: Path, database: Path | None) -> None:
    """Let MLflow name the folder that a project's files are in now.

    Args:
        location: Of the experiment, as MLflow knows it.
        files: The folder, which may be missing yet.
        database: The SQLite file, whose paths are rewritten in one transaction.

    Raises:
        ReactError: If a database on a server names another folder. Unlike a file it does not show
            whether the project was moved or copied.
    """
    former = Path(unquote(urlsplit(location).path))
    if not location.startswith("file:") or former.name != FILES:
        return
    if former == files or (former.exists() and files.exists() and former.samefile(files)):
        return
    if database is None:
        raise ReactError(
            f"the files of this experiment are in {former}, of a project at another place. Is this "
            "a copy: set another `project` in pipeline.yaml. Was it moved: "
            f"mkdir -p {former.parent}; ln -s {files} {former.parent}"
        )
    old, new = former.parent, files.parent
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in connection.execute(_COLUMNS).fetchall():
            # A location is a URI, also within JSON, or a path.
            connection.execute(
                f'UPDATE "{table}" SET "{column}" = replace(CASE'  # noqa: S608
                f' WHEN substr("{column}", 1, length(?1)) = ?1'
                f' THEN ?2 || substr("{column}", length(?1) + 1) ELSE "{column}" END, ?3, ?4)'
                f' WHERE instr("{column}", ?1) OR instr("{column}", ?3)',
                (f"{old}/", f"{new}/", f"{old.as_uri()}/", f"{new.as_uri()}/"),
            )
    logger.warning("%s was at %s before: MLflow's locations now name the new place", new, old)
