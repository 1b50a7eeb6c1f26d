"""The Dagster home: the folder of Dagster's instance, and whether `react-pipeline ui` runs over it.

Does not belong here: what is in the instance (Dagster), or starting anything (an extension).
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

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
    """The absolute path of the Dagster home: `DAGSTER_HOME`, else `dagster_home` next to
    `pipeline.yaml`.
    """
    if named := os.environ.get(HOME_VARIABLE):
        # Dagster refuses a relative one; it is meant from the folder in which the command runs.
        return Path(named).expanduser().absolute()
    return project_folder / "dagster_home"


def prepare_home(project_folder: Path) -> Path:
    """The Dagster home, made if it is missing, with the package's `dagster.yaml` unless it has one
    of its own.

    Raises:
        InputError: If it cannot be written.
    """
    home = locate_home(project_folder)
    settings = home / SETTINGS_FILE
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            write_atomically(settings, DAGSTER_SETTINGS.read_text(encoding="utf-8"))
        if not os.access(
            home, os.W_OK
        ):  # its databases would say no more than that they are read-only
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{HOME_VARIABLE} {home}: {error.strerror}; set it to a folder that you can write to"
        ) from error
    return home


@contextmanager
def locked_for_ui(home: Path) -> Iterator[TextIO]:
    """Let no second `react-pipeline ui` run over a home: two daemons ask for every run twice. Gives
    the lock file.

    A process that inherits its descriptor holds the lock too.

    Raises:
        InputError: If they run already: where, and how to end them.
    """
    with (home / LOCK_FILE).open("a") as file:
        if not lock(file, wait=False):
            there = (
                ", ".join(f"{name} {url}" for name, url in ui_addresses(home).items())
                or "it is just starting"
            )
            processes = " ".join(map(str, _read(home).get("processes") or ()))
            end = "Ctrl-C where it runs" + (f", or: kill {processes}" if processes else "")
            raise InputError(
                f"`react-pipeline ui` runs already over {home}: {there}; use it, or end it first "
                f"({end})"
            )
        try:
            yield file
        finally:
            file.truncate(0)


def tell_addresses(
    file: TextIO, addresses: Mapping[str, str], processes: Sequence[int] = ()
) -> None:
    """Write into the held lock where each user interface answers, by name, and which processes hold
    the lock.
    """
    file.truncate(0)
    file.write(json.dumps({"addresses": dict(addresses), "processes": list(processes)}))
    file.flush()


def ui_addresses(home: Path) -> dict[str, str]:
    """Where `react-pipeline ui` answers over a home, by name; after it was killed, where it did;
    else nothing.
    """
    addresses = _read(home).get("addresses")
    return (
        {str(name): str(url) for name, url in addresses.items()}
        if isinstance(addresses, dict)
        else {}
    )


def _read(home: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((home / LOCK_FILE).read_text())
        return content if isinstance(content, dict) else {}
    return {}
