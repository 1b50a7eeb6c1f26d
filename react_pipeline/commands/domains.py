"""The command `react-pipeline domains validate`: domain files checked."""

from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.preflight import (
    corpus_problems,
    encoder_problems,
    file_problems,
    listing_problems,
    store_problems,
)
from react_pipeline.settings import load_domain, misnamed
from react_pipeline.store import ConfigError

domains_app = typer.Typer(
    no_args_is_help=True, help="The domain files: a YAML file of class names for each domain."
)


@domains_app.command("validate")
def validate_domains(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Domain files. Default: all of the project.")
    ] = None,
    config: Config = None,
) -> None:
    """Check domain files and list every problem, with file and field.

    Those of the project are also checked with `pipeline.yaml`, its encoder, corpus and store.
    """
    project = None if files else load_project(config)
    checked = files or []
    problems = []
    if project:
        checked = sorted(project.config.domains.glob("*.yaml"))
        problems += misnamed(project.config.domains)
        for look in (encoder_problems, corpus_problems, store_problems):
            problems += look(project)
    for path in checked:
        try:
            domain = load_domain(path)
            problems += file_problems(path, domain) or listing_problems(path, domain)
            if project:
                project.retrieval(path.stem)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    console.print(f"{len(checked)} valid")
