"""The command line: `react-pipeline`.

Belongs here: commands, their options, what they print, and exit codes. Does not belong here: any
work; commands that build something drive the Dagster assets, as the UI does. Only the command line
imports `assets`.
"""

from __future__ import annotations

import gc
import resource
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline import __version__
from react_pipeline.commands.command_line import (
    Config,
    console,
    load_project,
    materialize_assets,
    materialize_remedy,
    missing_extra,
)
from react_pipeline.commands.domains import domains_app
from react_pipeline.commands.models import models_app
from react_pipeline.commands.results import print_start_page, results
from react_pipeline.commands.terminal import log_to_terminal, print_error
from react_pipeline.extension import answers
from react_pipeline.project import templates, write_project
from react_pipeline.settings import DEFAULT_KIND
from react_pipeline.stop import raise_if_stopped
from react_pipeline.store import InputError, ReactError, refusal_in

OPEN_FILES = 4_096
"""A usual limit of a shell is 1,024."""

NEW_OBJECTS = 100_000
"""Python looks for garbage after so many: torch and other libraries make a million objects that
stay, and to look through them as often as usual takes seconds.
"""

_PANELS = ("Start", "Build", "Look at the data", "Use a model", "Operate")
"""Order of the parts of `--help`; a command names its part by `rich_help_panel`."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Customize CLIP to your own visual domain from class names alone (REACT): Dagster "
    "assets, tracked in MLflow.",
)
app.add_typer(domains_app, name="domains", rich_help_panel="Start")


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"react-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel="Start")
def init(
    folder: Annotated[
        Path, typer.Argument(help="The folder to create; files that are in it are kept.")
    ],
    corpus: Annotated[
        str, typer.Option(help=f"Kind of the corpus: {', '.join(templates())}.")
    ] = DEFAULT_KIND,
    dg: Annotated[
        bool,
        typer.Option(
            "--dg",
            help="Also a project of Dagster's command dg, for assets of your own beside these.",
        ),
    ] = False,
) -> None:
    """Create a project: pipeline.yaml, an example of a domain, a Dagster home, .gitignore."""
    for path in write_project(folder, corpus, dg=dg):
        console.print(f"wrote {path}")
    console.print(
        f"next:\n  cd {shlex.quote(str(folder))}\n  {templates()[corpus].next_step}\n"
        "  write your class names into a file of the folder domains\n"
        "  react-pipeline doctor       says what is missing\n"
        "  react-pipeline materialize"
    )


@app.command(rich_help_panel="Build")
def materialize(
    select: Annotated[
        str,
        typer.Option(
            help="Assets, in Dagster's syntax: '*', 'comparison', '*comparison' (with its "
            "ancestors)."
        ),
    ] = "*",
    domain: Annotated[
        list[str] | None, typer.Option(help="A domain; repeat for more. Default: all.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method; repeat for more. Default: `methods` of pipeline.yaml."),
    ] = None,
    config: Config = None,
) -> None:
    """Build assets, with the same checks and runs as from the Dagster UI."""
    project = load_project(config, domain or (), method or ())
    methods = method or project.config.methods
    if materialize_assets(project, select, domain or (), methods):
        raise typer.Exit(1)
    print_start_page(project, domain or ())


app.command(rich_help_panel="Build")(results)
app.add_typer(models_app, name="models", rich_help_panel="Build")
answers(lambda extension: extension.add_commands(app))
app.registered_commands.sort(
    key=lambda command: (*_PANELS, command.rich_help_panel).index(command.rich_help_panel)
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 if something failed, 2 for wrong use or wrong input;
    errors take a line each.
    """
    log_to_terminal()
    _raise_open_files()
    gc.set_threshold(NEW_OBJECTS)
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except ReactError as error:
        _fail(f"{error}{materialize_remedy(error)}", 2 if isinstance(error, InputError) else 1)
    except ModuleNotFoundError as error:
        _fail(missing_extra(error), 2)
    except Exception as error:
        # Typer's and click's own errors: wrong options, missing arguments.
        if hasattr(error, "format_message"):
            _fail(error.format_message(), getattr(error, "exit_code", 2))
        if refusal := refusal_in(error):
            _fail(refusal, 1)
        raise
    sys.exit(code if isinstance(code, int) else 0)


def _raise_open_files() -> None:
    """Let this process and its children open the files that Dagster needs, as far as the system
    allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < OPEN_FILES:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _fail(message: str, code: int) -> None:
    raise_if_stopped()  # else it may be what the stop became
    for line in message.splitlines():
        print_error(f"error: {line}")
    sys.exit(code)


if __name__ == "__main__":
    main()
