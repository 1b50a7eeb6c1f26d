"""The Dagster home: the folder of Dagster's instance, and where `react-pipeline ui` answers over
it.

Does not belong here: what is in the instance (Dagster), or starting anything (`extensions.ui`).
"""

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from react_pipeline.project.template import DAGSTER_SETTINGS
from react_pipeline.store import InputError, lock, write_atomically

HOME_VARIABLE = "DAGSTER_HOME"
SETTINGS_FILE = "dagster.yaml"
"""Without it Dagster takes its defaults: no monitoring, retries or retention, and no limit of the
pool.
"""

LOCK_FILE = "ui.lock"
"""Locked while the user interfaces run; says in JSON where they answer."""


def locate_home(project_folder: Path) -> Path:
    """Return the absolute path of the Dagster home: `DAGSTER_HOME`, else `dagster_home` next to
    `pipeline.yaml`.
    """
    if named := os.environ.get(HOME_VARIABLE):
        # Dagster refuses a relative one; it is meant from the folder in which the command runs.
        return Path(named).expanduser().absolute()
    return project_folder / "dagster_home"


def prepare_home(project_folder: Path) -> Path:
    """Make the Dagster home if it is missing, with the package's `dagster.yaml` unless it has one
    of its own, and return it.

    Raises:
        InputError: If it cannot be written.
    """
    home = locate_home(project_folder)
    settings = home / SETTINGS_FILE
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            write_atomically(settings, DAGSTER_SETTINGS.read_text(encoding="utf-8"))
        # Its databases would say no more than that they are read-only.
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{HOME_VARIABLE} {home}: {error.strerror}; set it to a folder that you can write to"
        ) from error
    return home


def ui_addresses(home: Path) -> dict[str, str]:
    """Return where `react-pipeline ui` answers over a home, by name; nothing if it does not run."""
    with suppress(OSError), (home / LOCK_FILE).open() as file:
        if lock(file, wait=False):
            return {}  # it was killed
    addresses: dict[str, str] = ui_record(home).get("addresses", {})
    return addresses


def ui_record(home: Path) -> dict[str, Any]:
    """Return what the lock file of a home says; empty where it is missing or empty."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((home / LOCK_FILE).read_text())
        return content if isinstance(content, dict) else {}
    return {}
