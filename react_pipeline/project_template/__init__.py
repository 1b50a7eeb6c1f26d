"""The files of the demo's project, and of Dagster, as the wheel carries them; in a clone they are links to its own.

Belongs here: those files and copying them. Does not belong here: reading them (`config_files`, `dagster_home`).
"""

from __future__ import annotations

from pathlib import Path

from react_pipeline.durable import write_atomically
from react_pipeline.errors import InputError

FOLDER = Path(__file__).parent

DAGSTER_SETTINGS = FOLDER / "dagster.yaml"
"""What a new Dagster home gets."""


def write_demo_project(folder: Path) -> list[Path]:
    """Make a folder the demo's project: `pipeline.yaml` and `domains/`. Files that are there are kept.

    Returns:
        What was written; nothing if the folder has a `pipeline.yaml`, which is written last.

    Raises:
        InputError: If the folder cannot be written.
    """
    if (folder / "pipeline.yaml").exists():
        return []
    written = []
    for source in [*sorted((FOLDER / "domains").glob("*.yaml")), FOLDER / "pipeline.yaml"]:
        target = folder / source.relative_to(FOLDER)
        if target.exists():
            continue
        try:
            write_atomically(target, source.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{target}: {error.strerror}; run the demo in a folder of your own") from error
        written.append(target)
    return written
