"""Preflight: what is wrong with a project that shows before anything is built.

Belongs here: names and places that a step would miss only minutes after the first one starts. Does
not belong here: rules of single fields (`settings`), what is out of date (`upkeep`), the machine
(`extensions.plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import filterfalse
from pathlib import Path
from typing import Any

from react_pipeline.project import Manifests, Project, absence, matches, seed_path
from react_pipeline.settings import DomainConfig, EvaluationSetConfig, is_url
from react_pipeline.store import ConfigError, InputError, Problem, SourceUnavailable

ENCODERS = ("encoder", "retrieval_encoder")
"""Fields of `pipeline.yaml`."""


def _problems(file: Path, field: str, look: Callable[..., object], *given: Any) -> list[Problem]:
    """Return what a function that looks at a field raises, a problem a line."""
    try:
        look(*given)
    except (InputError, SourceUnavailable, OSError, ValueError) as error:
        return [Problem(file, field, line) for line in str(error).splitlines()]
    return []


def encoder_problems(project: Project) -> list[Problem]:
    """Return what is wrong with `encoder` and `retrieval_encoder`: an unknown architecture or tag,
    or weights not there.
    """
    from react_pipeline.clip import require_available

    return [
        problem
        for field in ENCODERS
        if (encoder := getattr(project.config, field))
        for problem in _problems(project.path, "", require_available, encoder, field)
    ]


def corpus_problems(project: Project) -> list[Problem]:
    """Report local files and folders of `corpus` that are not there; no server is asked."""
    problems = []
    for name in filterfalse(is_url, project.config.corpus.files()):
        problems += _problems(project.path, "corpus", _require_files, Path(name))
    return problems


def _require_files(pattern: Path) -> None:
    for path, files in matches(pattern):
        if not any(file.exists() for file in files):
            missing = absence(path) or f"{path} finds no file"
            raise InputError(f"{missing}; put the captioned pictures there, or correct the path")


def embedding_problems(project: Project) -> list[Problem]:
    """Report a package that encoding pairs needs, and that is not installed."""
    from react_pipeline.embedding import require_clip_retrieval

    if project.config.corpus.has_vectors:
        return []
    return _problems(project.path, "embedding", require_clip_retrieval)


def store_problems(project: Project) -> list[Problem]:
    """Report a store on a server that cannot be used: no access, no such bucket."""
    return _problems(project.path, "store", project.store.backend.require_usable)


def domain_problems(project: Project, slug: str) -> list[Problem]:
    """Return what is wrong with a domain of the project: what its file says, alone and joined with
    `pipeline.yaml`, and `file_problems`.

    Raises:
        InputError: If there is no such domain.
    """
    look = Manifests.of(project)  # reads the file once
    try:
        domain = look.domain(slug)
        look.retrieval(slug)
    except ConfigError as error:
        return error.problems
    return file_problems(project.config.domains / f"{slug}.yaml", domain)


def file_problems(path: Path, domain: DomainConfig) -> list[Problem]:
    """Return what is wrong with a valid domain file: a single class; seeds or labelled images that
    are not there.
    """
    problems = []
    if len(domain.classes) < 2:
        message = "has a single class, and every image would get its name; list at least two"
        problems.append(Problem(path, "classes", message))
    named = [
        (f"classes.{number}.seeds", seed_path(path.parent, seed))
        for number, entry in enumerate(domain.classes)
        for seed in entry.seeds
    ]
    for name, labelled in _labelled(domain).items():
        named += [(f"{name}.{field}", place) for field, place in labelled.places().items()]
    for field, place in named:
        if not place.exists():
            missing = absence(place) or f"there is no file or folder {place}"
            message = f"{missing}; correct the path, or remove it"
            problems.append(Problem(path, field, message))
    return problems


def listing_problems(path: Path, domain: DomainConfig) -> list[Problem]:
    """Return what is wrong with a list of labelled files, such as a folder with no class's name."""
    problems = []
    for field, labelled in _labelled(domain).items():
        if labelled.are_files:
            problems += _problems(path, field, labelled.images, domain)
    return problems


def _labelled(domain: DomainConfig) -> dict[str, EvaluationSetConfig]:
    """Return the labelled images of a domain by the field that names them."""
    named = {"evaluation": domain.evaluation, "shots": domain.shots}
    return {field: labelled for field, labelled in named.items() if labelled}
