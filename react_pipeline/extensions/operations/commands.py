"""The commands `react-pipeline prune` and `verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from react_pipeline.commands import Config, console, load_project, print_error


def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be removed.")
    ] = False,
    keep_hours: Annotated[
        float, typer.Option(help="Keep what was current or made within this time.", min=0)
    ] = 168.0,
    config: Config = None,
) -> None:
    """Remove artifacts that nothing current was made from, leftovers of killed builds, and fetched
    images and cached vectors that are no longer used. Keep fewer hours than a build takes only
    while nothing runs.
    """
    project = load_project(config)
    keep_seconds = keep_hours * 3600
    removed = project.store.prune(dry_run=dry_run, keep_seconds=keep_seconds)
    for path in removed:
        typer.echo(path)
    console.print(f"{len(removed)} paths {'would be removed' if dry_run else 'removed'}")


def verify(config: Config = None) -> None:
    """Read every artifact in full and compare it with its manifest: detects silent disk
    corruption.
    """
    checked = wrong = 0
    for path, error in load_project(config).store.verify():
        checked += 1
        if error is not None:
            wrong += 1
            print_error(f"error: {error}")
        else:
            console.print(f"  {path}: as published")
    console.print(f"{checked} artifacts read, {wrong} of them damaged")
    raise typer.Exit(1 if wrong else 0)
