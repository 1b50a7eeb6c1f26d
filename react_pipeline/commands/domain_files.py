"""Domain files: taking one into a project.

Belongs here: copying a checked file into the folder of domains, what it contradicts in `pipeline.yaml`. Does not belong
here: what a file may say (`config`).
"""

from pathlib import Path

import yaml

from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX, DomainConfig, load_domain, read_yaml
from react_pipeline.store import ConfigError, InputError, Problem, write_atomically


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
