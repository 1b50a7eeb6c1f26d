"""What the commands share: the `--config` option, the console, finding the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from react_pipeline.errors import ConfigError, InputError
from react_pipeline.lineage import Project

console = Console()

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
