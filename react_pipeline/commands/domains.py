"""The commands `react-pipeline domains ...`: list, check and add domain files."""

from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.commands.domain_files import add_domain_file, problems_beside
from react_pipeline.commands.terminal import print_table, printable
from react_pipeline.settings import load_domain, load_domains, misnamed
from react_pipeline.store import ConfigError

domains_app = typer.Typer(no_args_is_help=True, help="The domain files: one YAML of class names each.")


@domains_app.command("list")
def list_domains(config: Config = None) -> None:
    """The valid domains, and the problems of the other files."""
    project = load_project(config)
    found, problems = load_domains(project.config.domains)
    rows = [
        [slug, entry.title, len(entry.classes), entry.evaluation.name if entry.evaluation else "none"]
        for slug, entry in found.items()
    ]
    print_table(["domain", "title", "classes", "evaluation"], rows)
    for problem in problems:
        typer.echo(f"not valid: {printable(str(problem))}", err=True)


@domains_app.command("validate")
def validate_domains(
    files: Annotated[list[Path] | None, typer.Argument(help="Domain files. Default: all of the project.")] = None,
    config: Config = None,
) -> None:
    """Check domain files and list every problem, with file and field; the project's also beside `pipeline.yaml`."""
    project = None if files else load_project(config)
    checked = files or (sorted(project.config.domains.glob("*.yaml")) if project else [])
    problems = misnamed(project.config.domains) if project else []
    for path in checked:
        try:
            load_domain(path)
            problems += problems_beside(project, path.stem) if project else []
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    console.print(f"{len(checked)} valid")


@domains_app.command("add")
def add_domain(file: Annotated[Path, typer.Argument(help="A YAML named <slug>.yaml.")], config: Config = None) -> None:
    """Check a domain file, copy it into the project's folder of domains, and make it a partition in Dagster."""
    project = load_project(config)
    target, domain = add_domain_file(project, file)
    for problem in problems_beside(project, domain.slug):
        typer.echo(f"note: {printable(str(problem))}", err=True)
    missing = domain.evaluation.path if domain.evaluation else None
    if missing is not None and not missing.exists():
        typer.echo(f"note: {missing} is not there; results will be `unavailable`", err=True)
    from react_pipeline.assets import launch, partitions

    with launch.open_instance(project) as instance:
        instance.add_dynamic_partitions(partitions.DOMAINS, [domain.slug])
    console.print(f"{target}: {len(domain.classes)} classes; next: react-pipeline materialize --domain {domain.slug}")
