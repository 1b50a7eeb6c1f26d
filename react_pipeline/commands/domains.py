"""The commands `react-pipeline domains ...`: list, check and add domain files."""

from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands.command_line import (
    Config,
    console,
    load_project,
    materialize_command,
    missing_extra,
)
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.preflight import (
    corpus_problems,
    encoder_problems,
    file_problems,
    store_problems,
    subject_problems,
)
from react_pipeline.project import Project
from react_pipeline.settings import (
    CONTROL_SUFFIX,
    DomainConfig,
    DrawnSetConfig,
    Place,
    edited_yaml,
    load_domain,
    load_domains,
    misnamed,
    read_yaml,
)
from react_pipeline.stage import FEW_SHOT_SET
from react_pipeline.store import ConfigError, InputError, Problem, write_atomically

domains_app = typer.Typer(
    no_args_is_help=True, help="The domain files: a YAML file of class names for each domain."
)


@domains_app.command("list")
def list_domains(config: Config = None) -> None:
    """List the valid domains, and the problems of the other files."""
    project = load_project(config)
    domains, problems = load_domains(project.config.domains)
    rows = []
    for slug, domain in domains.items():
        labelled = domain.evaluation.name if domain.evaluation else "none"
        rows.append([slug, domain.title, len(domain.classes), labelled])
    print_table(["domain", "title", "classes", "evaluation"], rows)
    for problem in problems:
        print_error(f"not valid: {problem}")


@domains_app.command("validate")
def validate_domains(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Domain files. Default: all of the project.")
    ] = None,
    config: Config = None,
) -> None:
    """Check domain files and list every problem, with file and field.

    Those of the project are also checked with `pipeline.yaml`, its encoder, and the captions of an
    embedded corpus.
    """
    project = None if files else load_project(config)
    checked = files or (sorted(project.config.domains.glob("*.yaml")) if project else [])
    problems = []
    if project:
        problems += misnamed(project.config.domains)
        problems += _encoder_problems(project)
        problems += corpus_problems(project)
        problems += store_problems(project)
    for path in checked:
        try:
            domain = load_domain(path)
            problems += file_problems(path, domain) or _listing_problems(path, domain)
            problems += problems_beside(project, path.stem) if project else []
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    console.print(f"{len(checked)} valid")
    if project:
        from react_pipeline.extensions.names import unnamed_notes  # loads pandas

        slugs = [path.stem for path in checked]
        for slug in slugs:
            for problem in subject_problems(project, slug):
                print_error(f"note: {problem}")
        for note in unnamed_notes(project, slugs):
            print_error(note)


def _listing_problems(path: Path, domain: DomainConfig) -> list[Problem]:
    """Return what is wrong with a list of labelled files, such as a folder with no class's name."""
    problems = []
    for field, labelled in (("evaluation", domain.evaluation), ("shots", domain.shots)):
        try:
            is_drawn = isinstance(labelled, DrawnSetConfig)
            if labelled and labelled.are_files and not is_drawn:
                labelled.images(domain)
        except InputError as error:
            problems.append(Problem(path, field, str(error)))
    return problems


def _encoder_problems(project: Project) -> list[Problem]:
    try:
        return encoder_problems(project)
    except ModuleNotFoundError as error:
        print_error(f"note: `encoder` was not checked: {missing_extra(error)}")
    return []


@domains_app.command("add")
def add_domain(
    file: Annotated[Path, typer.Argument(help="A YAML named <slug>.yaml.")], config: Config = None
) -> None:
    """Check a domain file, copy it into the project's folder of domains, and make it a partition in
    Dagster.
    """
    project = load_project(config)
    target, domain = add_domain_file(project, file)
    for problem in [*file_problems(target, domain), *problems_beside(project, domain.slug)]:
        print_error(f"note: {problem}")
    from react_pipeline.assets import launch, partitions

    with launch.open_instance(project) as instance:
        instance.add_dynamic_partitions(partitions.DOMAINS, [domain.slug])
    console.print(
        f"{target}: {len(domain.classes)} classes; next: {materialize_command(domain=domain.slug)}"
    )


def problems_beside(project: Project, slug: str) -> list[Problem]:
    """Return the contradictions of a valid domain file with `pipeline.yaml`: in its retrieval, and
    in the training of methods in use.

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
                chosen = project.method(method)
                project.config.customization.resolve(chosen.name, None, chosen.overrides)
            except InputError as without_domain:
                path = project.path if str(without_domain) == str(error) else path
            problems.append(Problem(path, "", str(error)))
    few_shot = [name for name in used if FEW_SHOT_SET in project.method(name).parents]
    if few_shot and project.domain(slug).shots is None:
        message = f"is missing, and {min(few_shot)} is trained on them; add it, or leave that out"
        problems.append(Problem(project.config.domains / f"{slug}.yaml", "shots", message))
    return problems


def add_domain_file(project: Project, file: Path) -> tuple[Path, DomainConfig]:
    """Check a domain file and copy it into the project's folder of domains; safe to repeat.

    Relative paths of its labelled images are written out in full, because they are read relative to
    the file.

    Returns:
        The copy and the domain.

    Raises:
        ConfigError: Listing every problem of the file.
        InputError: If the project has another file of this name.
    """
    domain = load_domain(file)
    directory = project.config.domains
    document = read_yaml(file)
    texts: dict[Place, str] = {}
    if file.resolve().parent != directory:
        for field, labelled in (("evaluation", domain.evaluation), ("shots", domain.shots)):
            for name, path in labelled.places().items() if labelled else ():
                if (field, name) in document.spans:
                    texts[field, name] = str(path.resolve())
    text = edited_yaml(document, texts)
    target = directory / f"{domain.slug}.yaml"
    if not target.exists():
        write_atomically(target, text)
    elif target.read_text(encoding="utf-8") != text:
        raise InputError(f"{target} exists and differs: edit that file, or remove it first")
    return target, domain
