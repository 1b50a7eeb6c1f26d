"""Preflight: what is wrong with a project that shows before anything is built.

Belongs here: names and places that a step would miss only minutes after the first one starts. Does
not belong here: rules of single fields (`settings`), what is out of date (`upkeep`), the machine
(`extensions.doctor`).
"""

from __future__ import annotations

import re
from itertools import filterfalse
from pathlib import Path

from react_pipeline.project import Project, absence, matches, seed_path
from react_pipeline.settings import DomainConfig, DrawnSetConfig, is_url
from react_pipeline.store import ConfigError, InputError, Problem, SourceUnavailable


def encoder_problems(project: Project) -> list[Problem]:
    """Return what is wrong with `encoder` and `retrieval_encoder`: an unknown architecture or tag,
    or weights not there.
    """
    from react_pipeline.clip import require_available

    problems = []
    for field in ("encoder", "retrieval_encoder"):
        try:
            if encoder := getattr(project.config, field):
                require_available(encoder)
        except InputError as error:
            lines = str(error).splitlines()
            problems += [
                Problem(project.path, "", re.sub("^encoder", field, line)) for line in lines
            ]
    return problems


def corpus_problems(project: Project) -> list[Problem]:
    """Report local files and folders of `corpus` that are not there; no server is asked."""
    problems = []
    try:
        for name in filterfalse(is_url, project.config.corpus.files()):
            for path, files in matches(Path(name)):
                if not any(file.exists() for file in files):
                    missing = absence(path) or f"{path} finds no file"
                    message = f"{missing}; put the captioned pictures there, or correct the path"
                    problems.append(Problem(project.path, "corpus", message))
                    break
    except (OSError, ValueError) as error:
        problems.append(Problem(project.path, "corpus", str(error)))
    return problems


def embedding_problems(project: Project) -> list[Problem]:
    """Report a package that encoding pairs needs, and that is not installed."""
    from react_pipeline.embedding import require_clip_retrieval

    try:
        if not project.config.corpus.has_vectors:
            require_clip_retrieval()
    except InputError as error:
        return [Problem(project.path, "embedding", str(error))]
    return []


def store_problems(project: Project) -> list[Problem]:
    """Report a store on a server that cannot be used: no access, no such bucket."""
    try:
        project.store.backend.require_usable()
    except (InputError, SourceUnavailable) as error:
        return [Problem(project.path, "store", str(error))]
    return []


def domain_problems(project: Project, slug: str) -> list[Problem]:
    """Return what is wrong with a domain of the project: what its file says, and `file_problems`.

    Raises:
        InputError: If there is no such domain.
    """
    try:
        domain = project.domain(slug)
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
    for name, labelled in (("evaluation", domain.evaluation), ("shots", domain.shots)):
        places = labelled.places() if labelled else {}
        named += [(f"{name}.{field}", place) for field, place in places.items()]
    for field, place in named:
        if not place.exists():
            missing = absence(place) or f"there is no file or folder {place}"
            message = f"{missing}; correct the path, or remove it"
            problems.append(Problem(path, field, message))
    return problems


def listing_problems(path: Path, domain: DomainConfig) -> list[Problem]:
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
