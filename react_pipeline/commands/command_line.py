"""What the commands share: the `--config` option, the console, finding the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from react_pipeline.project import Project
from react_pipeline.store import ConfigError, InputError

console = Console()

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A pipeline.yaml. Default: $REACT_PIPELINE_CONFIG, else the one here."),
]


EXTRAS = {"pyspark": "spark", "s3fs": "s3", "clip_benchmark": "elevater", "h5py": "elevater", "pycocotools": "dense"}
"""Modules of extras other than `pipeline`."""


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


def missing_extra(error: ModuleNotFoundError) -> str:
    """What to install for a command whose packages are not in the light installation.

    Raises:
        ModuleNotFoundError: If a module of this package is missing, which is no one's choice.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "react_pipeline"):
        raise error
    extra = EXTRAS.get(module, "pipeline")
    return f'this command needs `{module}`, which is not installed: pip install "react-pipeline[{extra}]"'
