"""The commands `react-pipeline domains ...`: list, check and add domain files, and choose their
names.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from react_pipeline.commands.command_line import (
    Config,
    Domain,
    console,
    load_project,
    missing_extra,
)
from react_pipeline.commands.terminal import print_error, print_table
from react_pipeline.lineage import fresh_or_none
from react_pipeline.preflight import encoder_problems, file_problems, store_problems
from react_pipeline.project import Project
from react_pipeline.settings import (
    CONTROL_SUFFIX,
    DomainConfig,
    compose_yaml,
    edit_yaml,
    in_brackets,
    load_domain,
    load_domains,
    misnamed,
    read_yaml,
)
from react_pipeline.stage import ALL, FEW_SHOT_SET
from react_pipeline.store import ConfigError, InputError, Problem, write_atomically

_MOST_COUNTED = 10_000_000
"""Captions that `domains validate` reads, of all domains together: half a minute."""

domains_app = typer.Typer(
    no_args_is_help=True, help="The domain files: a YAML file of class names for each domain."
)


@domains_app.command("list")
def list_domains(config: Config = None) -> None:
    """List the valid domains, and the problems of the other files."""
    project = load_project(config)
    domains, problems = load_domains(project.config.domains)
    rows = [
        [
            slug,
            entry.title,
            len(entry.classes),
            entry.evaluation.name if entry.evaluation else "none",
        ]
        for slug, entry in domains.items()
    ]
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
        problems += [*_encoder_problems(project), *store_problems(project)]
    for path in checked:
        try:
            domain = load_domain(path)
            problems += file_problems(path, domain)
            problems += problems_beside(project, path.stem) if project else []
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    console.print(f"{len(checked)} valid")
    if project:
        _note_unnamed(project, [path.stem for path in checked])


def _encoder_problems(project: Project) -> list[Problem]:
    try:
        return encoder_problems(project)
    except ModuleNotFoundError as error:
        print_error(f"note: `encoder` was not checked: {missing_extra(error)}")
        return []


def _note_unnamed(project: Project, slugs: Sequence[str]) -> None:
    """Warn of classes that no caption names, if the corpus is embedded and small."""
    embeddings = fresh_or_none(project, "corpus_embeddings", ALL)
    if embeddings is None:
        return
    from react_pipeline.retrieval import domain_names, unnamed_classes, unnamed_message

    if (amount := len(slugs) * int(embeddings.counts["rows"])) > _MOST_COUNTED:
        console.print(
            f"names were not looked for in {amount:,} captions; see `react-pipeline domains names "
            "DOMAIN`"
        )
        return
    for slug in slugs:
        unnamed = unnamed_classes(domain_names(project, slug), embeddings)
        if unnamed:
            path = project.config.domains / f"{slug}.yaml"
            message = unnamed_message(list(unnamed), list(unnamed.values()))
            print_error(f"warning: {Problem(path, 'classes', message)}")


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
        f"{target}: {len(domain.classes)} classes; next: react-pipeline materialize --domain "
        f"{domain.slug}"
    )


@domains_app.command("names")
def list_names(
    domain: Domain,
    write: Annotated[
        bool, typer.Option("--write", help="Put the most frequent name of each class first.")
    ] = False,
    config: Config = None,
) -> None:
    """Count the captions that contain each name of a domain, and show the most frequent name of
    each class.
    """
    from react_pipeline.retrieval import domain_names

    project = load_project(config)
    counts = domain_names(project, domain)
    first = project.domain(domain).prompt_names
    # Of equally frequent names the first one of the file.
    best = counts.loc[counts.groupby("class_id")["captions"].idxmax(), "name"]
    others = {number: name for number, name in enumerate(best) if name != first[number]}
    print_table(
        ["class", "name", "captions"], counts[["class", "name", "captions"]].to_numpy().tolist()
    )
    for number, name in others.items():
        console.print(f"{first[number]}: {name} is more frequent")
    if others and write:
        put_first(project.config.domains / f"{domain}.yaml", others)
        console.print(f"these are first now; next: react-pipeline materialize --domain {domain}")
    elif others:
        console.print("--write puts these first")


def problems_beside(project: Project, slug: str) -> list[Problem]:
    """Contradictions of a valid domain file with `pipeline.yaml`: in its retrieval, and in the
    training of methods in use.

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
    text = file.read_text(encoding="utf-8")
    raw = read_yaml(file)
    for field, labelled in (("evaluation", domain.evaluation), ("shots", domain.shots)):
        places = labelled.places() if labelled else {}
        relative = [name for name in places if not Path(raw[field].get(name, "/")).is_absolute()]
        if relative and file.resolve().parent != directory:
            raw[field].update({name: str(places[name].resolve()) for name in relative})
            text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    target = directory / f"{domain.slug}.yaml"
    if not target.exists():
        write_atomically(target, text)
    elif target.read_text(encoding="utf-8") != text:
        raise InputError(f"{target} exists and differs: edit that file, or remove it first")
    return target, domain


def put_first(path: Path, names: Mapping[int, str]) -> None:
    """Swap the names of classes (class id -> a synonym of it); all else in the domain file stays as
    it is written.

    Raises:
        InputError: If the text of a name cannot be swapped alone; then nothing is written.
    """
    raw = read_yaml(path)
    root: Any = compose_yaml(path.read_bytes().decode())
    (classes,) = (value for key, value in root.value if key.value == "classes")
    edits = []
    for number, name in names.items():
        entry = raw["classes"][number]
        nodes = {key.value: node for key, node in classes.value[number].value}
        place = entry["synonyms"].index(name)
        pairs = ((nodes["name"], name), (nodes["synonyms"].value[place], entry["name"]))
        edits += [
            (node.start_mark.index, node.end_mark.index, in_brackets(new)) for node, new in pairs
        ]
        entry["synonyms"][place] = entry["name"]
        entry["name"] = name
    edit_yaml(path, edits, raw)
