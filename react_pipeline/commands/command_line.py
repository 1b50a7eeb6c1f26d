"""What the commands share: the `--config` option, the console, finding the project, building
assets.
"""

import getpass
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from react_pipeline.commands.terminal import bars_in_terminal, print_error, print_line
from react_pipeline.extension import brought, extensions
from react_pipeline.installation import install_command
from react_pipeline.project import Project
from react_pipeline.store import ConfigError, InputError

console = Console(markup=False, soft_wrap=True)
"""Prints names and paths as they are, and whole lines into logs."""

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="A pipeline.yaml. Default: $REACT_PIPELINE_CONFIG, else the one here.",
    ),
]
Domain = Annotated[str, typer.Argument(help="Slug of the domain.")]
Person = Annotated[
    str | None, typer.Option("--by", help="Who decides. Default: the name in git's configuration.")
]


def name_of(person: str | None) -> str:
    """The name of who decides: that of `--by`, else of git's configuration, else of the system."""
    name = person or ""
    if not name.strip():
        with suppress(OSError, subprocess.SubprocessError):
            command = ["git", "config", "user.name"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
            name = done.stdout
    return " ".join(name.split()) or getpass.getuser()


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
            raise InputError(
                f"{path}: no such file; run where your pipeline.yaml is, or give --config"
            ) from error
        raise


def missing_extra(error: ModuleNotFoundError) -> str:
    """What to install for a command whose packages are not in the light installation.

    Raises:
        ModuleNotFoundError: If a module of this package is missing, which no user chose.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "react_pipeline"):
        raise error
    answers = [installs for _, installs in brought(lambda extension: extension.installs())]
    remedy = next((one[module] for one in answers if module in one), install_command("pipeline"))
    return f"this command needs `{module}`, which is not installed: {remedy}"


def materialize_assets(
    project: Project, select: str, domains: Sequence[str], methods: Sequence[str]
) -> int:
    """Run a selection of assets and print what becomes of it; returns the exit code."""
    from react_pipeline.assets import launch

    with bars_in_terminal():
        summary = launch.materialize(
            select, domains, methods, project.path, lambda line: print_line(f"  {line}")
        )
    console.print(f"{summary.built} built, {summary.reused} as before, {summary.seconds:.0f} s")
    for state, places in (("failed", summary.failed), ("skipped", summary.skipped)):
        for place, why in places.items():
            print_error(f"error: {launch.named(place)} {state}: {' '.join(why.split())}")
    return 1 if summary.failed or summary.skipped else 0


def ask_server(
    project: Project, url: str, select: str, domains: Sequence[str], methods: Sequence[str]
) -> int:
    """Let a server run a selection of assets, and wait for it; returns the exit code."""

    def show(line: str) -> None:
        print_line(f"  {line}")

    answers = (
        one.materialize_remotely(url, select, domains, methods, project.path, show)
        for one in extensions().values()
    )
    return 0 if next((answer for answer in answers if answer is not None), False) else 1
