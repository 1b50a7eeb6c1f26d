"""The commands `react-pipeline backup` and `react-pipeline restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from react_pipeline.commands import Config, console, load_project, print_error

if TYPE_CHECKING:
    from react_pipeline.extensions.operations.backup import Report


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, on another disk than the store.")],
    config: Config = None,
) -> None:
    """Copy pipeline.yaml, domains, the store, and the databases of Dagster and MLflow; runs may go
    on meanwhile.
    """
    from react_pipeline.extensions.operations.backup import back_up

    _print(back_up(load_project(config), folder.absolute()))


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `backup` made.")],
    folder: Annotated[Path, typer.Argument(help="An empty folder, for pipeline.yaml.")],
) -> None:
    """Put a backup into an empty place, and read every artifact in full."""
    from react_pipeline.extensions.operations.backup import restore as put_back

    _print(put_back(source.absolute(), folder.absolute()))


def _print(report: Report) -> None:
    for note in report.notes:
        print_error(f"note: {note}")
    units = {"store": "artifacts"}
    counts = (f"{name}: {n} {units.get(name, 'files')}" for name, n in report.copied.items())
    console.print(", ".join(counts))
