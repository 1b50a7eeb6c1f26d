"""What the commands share: the `--config` option, the console, finding the project, building
assets.
"""

import getpass
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from react_pipeline.commands.terminal import bars_in_terminal, print_error, print_line
from react_pipeline.installation import EXTRAS, install_command
from react_pipeline.project import Project
from react_pipeline.settings import load_domains
from react_pipeline.stage import domain_and_method
from react_pipeline.store import NotCurrent

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


def _person_name(given: str) -> str:
    """Return a name in one line, else the user of the system."""
    return " ".join(given.split()) or getpass.getuser()


Person = Annotated[
    str,
    typer.Option(
        "--by", default_factory=getpass.getuser, callback=_person_name, help="Who decides."
    ),
]


def load_project(
    config: Path | None, domains: Sequence[str] = (), methods: Sequence[str] = ()
) -> Project:
    """Load the project of a `--config` option, and check arguments that name its domains and
    methods, before anything large is loaded.

    Raises:
        ConfigError: If its file is wrong.
        InputError: If there is no such file, domain or method.
    """
    project = Project.load(config)
    for slug in domains:
        if not project.has_domain(slug):
            project.domain(slug)  # names those there are
    for method in methods:
        project.method(method)
    return project


def valid_domains(project: Project) -> list[str]:
    """Return the slugs of the valid domain files; a note says why others are left out."""
    domains, problems = load_domains(project.config.domains)
    for problem in problems:
        print_error(f"note: left out: {problem}")
    return sorted(domains)


def materialize_command(select: str = "", domain: str = "", method: str = "") -> str:
    """Return the command that builds a selection of assets, as a shell takes it."""
    options = {"--select": select, "--domain": domain, "--method": method}
    words = [word for option, value in options.items() if value for word in (option, value)]
    return shlex.join(["react-pipeline", "materialize", *words])


def materialize_remedy(error: Exception) -> str:
    """Return the end of an error that says what has to be materialized: the command; "" for any
    other.
    """
    if not isinstance(error, NotCurrent) or error.place is None:
        return ""
    stage, key = error.place
    return f": {materialize_command(f'*{stage}', *domain_and_method(key))}"


def missing_extra(error: ModuleNotFoundError) -> str:
    """Return what to install for a command whose packages are not in the light installation.

    Raises:
        ModuleNotFoundError: If a module of this package is missing, which no user chose.
    """
    module = (error.name or "").partition(".")[0]
    if module in ("", "react_pipeline"):
        raise error
    remedy = install_command(EXTRAS.get(module, "pipeline"))
    return f"this command needs `{module}`, which is not installed: {remedy}"


def materialize_assets(
    project: Project, select: str, domains: Sequence[str], methods: Sequence[str]
) -> int:
    """Run a selection of assets and print what became of it: each cause of a failure once, not what
    follows from it. Returns the exit code.
    """
    from react_pipeline.assets import launch

    with bars_in_terminal():
        summary = launch.materialize(
            select, domains, methods, project.path, lambda line: print_line(f"  {line}")
        )
    causes: dict[str, list[str]] = {}
    for place, why in summary.failed.items():
        causes.setdefault(why.strip(), []).append(launch.named(place))
    for why, names in causes.items():
        for line in f"{', '.join(names)} failed: {why}".splitlines():
            print_error(f"error: {line}")
    counts = f"{summary.built} built, {summary.reused} as before"
    if causes:
        counts += f", {len(summary.failed)} failed, {len(summary.skipped)} skipped"
    console.print(f"{counts}, {summary.seconds:.0f} s")
    if causes:
        console.print(
            "next: correct what failed, and run the same command again; it keeps the rest"
        )
    return 1 if causes else 0
