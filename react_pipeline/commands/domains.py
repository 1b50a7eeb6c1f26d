"""The commands `react-pipeline domains ...`: list, check and add domain files; what one contradicts elsewhere."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from react_pipeline.commands.command_line import Config, console, load_project
from react_pipeline.commands.domain_names import names
from react_pipeline.commands.terminal import print_table, printable
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX, DomainConfig, load_domain, load_domains, misnamed, read_yaml
from react_pipeline.store import ConfigError, InputError, Problem, write_atomically

domains_app = typer.Typer(no_args_is_help=True, help="The domain files: one YAML of class names each.")
domains_app.command()(names)


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


def problems_beside(project: Project, slug: str) -> list[Problem]:
    """What a valid domain file contradicts in `pipeline.yaml`: its retrieval, and the training of methods in use.

    A training that is wrong in `pipeline.yaml` alone is reported as a problem of that file.
    """
    problems: list[Problem] = []
    try:
        project.retrieval(slug)
    except ConfigError as error:
        problems += error.problems
    used = {*project.config.methods, *project.config.customization.methods} - {"base"}
    for method in sorted({method.removesuffix(CONTROL_SUFFIX) for method in used}):
        try:
            project.training(slug, method)
        except InputError as error:
            path = project.config.domains / f"{slug}.yaml"
            try:
                project.config.customization.resolve(method)
            except InputError as without_domain:
                path = project.path if str(without_domain) == str(error) else path
            problems.append(Problem(path, "", str(error)))
    return problems


def add_domain_file(project: Project, file: Path) -> tuple[Path, DomainConfig]:
    """Check a domain file and copy it into the project's folder of domains; safe to repeat.

    A relative path of its evaluation set is written out in full, because it is read relative to the file.

    Returns:
        The copy and the domain.

    Raises:
        ConfigError: Listing every problem of the file.
        InputError: If the project has another file of this name.
    """
    domain = load_domain(file)
    directory = project.config.domains
    text = file.read_text(encoding="utf-8")
    raw = read_yaml(file)
    path = (raw.get("evaluation") or {}).get("path")
    located = domain.evaluation.path if domain.evaluation else None
    if path and located and not Path(path).is_absolute() and file.resolve().parent != directory:
        raw["evaluation"]["path"] = str(located.resolve())
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    target = directory / f"{domain.slug}.yaml"
    if not target.exists():
        write_atomically(target, text)
    elif target.read_text(encoding="utf-8") != text:
        raise InputError(f"{target} exists and differs: edit that file, or remove it first")
    return target, domain
