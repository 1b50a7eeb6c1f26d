"""What the commands share: the `--config` option, the console, finding the project, building assets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from react_pipeline.commands.terminal import bars_in_terminal, print_line
from react_pipeline.project import Project
from react_pipeline.store import ConfigError, InputError

console = Console()

DEMO_DOMAINS = ("animals", "food", "travel")

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A pipeline.yaml. Default: $REACT_PIPELINE_CONFIG, else the one here."),
]


def load_project(config: Path | None) -> Project:
    """The project of a `--config` option.

    Raises:
        ConfigError: If its file is missing or wrong.
    """
    try:
        return Project.load(config)
    except ConfigError as error:
        path = error.problems[0].file
        if not path.exists():
            raise InputError(f"{path}: no such file; run where your pipeline.yaml is, or give --config") from error
        raise


def materialize_assets(project: Project, select: str, domains: Sequence[str], methods: Sequence[str]) -> int:
    """Run a selection of assets and print what becomes of it; returns the exit code."""
    from assets.launch import materialize as launch
    from assets.launch import named

    with bars_in_terminal():
        summary = launch(select, domains, methods, project.path, lambda line: print_line(f"  {line}"))
    console.print(f"{summary.built} built, {summary.reused} as before, {summary.seconds:.0f} s")
    for state, places in (("failed", summary.failed), ("skipped", summary.skipped)):
        for place, why in places.items():
            print_line(f"error: {named(place)} {state}: {' '.join(why.split())}", sys.stderr)
    return 1 if summary.failed or summary.skipped else 0
