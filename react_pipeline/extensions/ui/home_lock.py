"""The lock of a Dagster home: the user interfaces run over it once.

Does not belong here: starting them (`servers`), where they answer (`react_pipeline.project`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from react_pipeline.project import LOCK_FILE, ui_addresses, ui_record
from react_pipeline.store import InputError, lock


@contextmanager
def locked_for_ui(home: Path) -> Iterator[TextIO]:
    """Prevent two `ui` processes from sharing a Dagster home: two daemons would launch every run
    twice. Yields the lock file.

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
            processes = " ".join(map(str, ui_record(home).get("processes") or ()))
            end = "Ctrl-C where it runs" + (f", or: kill {processes}" if processes else "")
            raise InputError(
                f"`react-pipeline ui` runs already over {home}: {there}; use it, or end it first "
                f"({end})"
            )
        file.truncate(0)  # what a `ui` that was killed has left
        try:
            yield file
        finally:
            file.truncate(0)


def tell_addresses(file: TextIO, addresses: Mapping[str, str], processes: Sequence[int]) -> None:
    """Write into the held lock where each user interface answers, by name, and which processes to
    end if this one is killed.
    """
    file.truncate(0)
    file.write(json.dumps({"addresses": dict(addresses), "processes": list(processes)}))
    file.flush()
