"""Configuration files: `pipeline.yaml` and domain files as models, with absolute paths, and what is
wrong with a file, each problem with its place.

Does not belong here: which fields there are and what they may hold (`config`), rules of a field (in
its section, as a `ValueError` with a sentence of its own), reading YAML (`yaml_files`). Relative
paths are resolved against the directory of the file that names them; `~` is the home directory, as
in a shell.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from react_pipeline.settings.addresses import has_secret, without_secrets
from react_pipeline.settings.config import DomainConfig, PipelineConfig, pipeline_model
from react_pipeline.settings.section import Section, did_you_mean
from react_pipeline.settings.yaml_files import Document, Place, read_yaml
from react_pipeline.store import ConfigError, Problem

TRACKING_VARIABLE = "REACT_TRACKING_URI"
"""Overrides `tracking_uri`; the only place for a database address with a password."""

File = TypeVar("File", bound=Section)

MAX_PROBLEMS = 100
_MAX_SHOWN = 60

_STORE_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]+(/[A-Za-z0-9._=-]+)*/?")


def load_pipeline(path: Path) -> PipelineConfig:
    """Read `pipeline.yaml`; its relative paths become absolute.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    base = path.resolve().parent
    document = read_yaml(path)
    url = _take_store_url(document)
    raw = validate(document, pipeline_model())
    config = raw.located(lambda name: absolute_path(base, name).resolve())
    store = config.cache.folder if url else config.store  # of a server's store: our part of it
    # Names with patterns keep their links.
    corpus = raw.corpus.located(partial(absolute_path, base))
    if misplaced := corpus.misplaced(store):
        field, problem = misplaced
        raise ConfigError.of(path, problem, f"corpus.{field}", document.line(("corpus", field)))
    default_uri = f"sqlite:///{store.parent / 'mlflow.db'}"
    update = {
        "store": store,
        "tracking_uri": _tracking_uri(path) or config.tracking_uri or default_uri,
        "corpus": corpus,
    }
    config = config.model_copy(update=update)
    config._store_url = url
    return config


def _take_store_url(document: Document) -> str:
    """Take the URL that `store` holds in place of a folder out of a file; "" if it holds none."""
    store = document.fields.get("store")
    if not isinstance(store, str) or "://" not in store:
        return ""
    if not _STORE_URL.fullmatch(store):
        problem = "must be a folder, or s3://, gs:// or az:// with NAME/PREFIX, no password or `?`"
        raise ConfigError.of(document.path, problem, "store", document.line(("store",)))
    del document.fields["store"]
    return store.rstrip("/")


def _tracking_uri(path: Path) -> str:
    named = os.environ.get(TRACKING_VARIABLE, "")
    if named.startswith("http") and has_secret(named):
        # MLflow repeats the address of a server in its messages.
        problem = (
            f"{TRACKING_VARIABLE} holds a password; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
        raise ConfigError.of(path, problem, "tracking_uri")
    return named


def absolute_path(base: Path, name: Path | str) -> Path:
    """Return a path below a folder without links, from which `..` at the front therefore lead to
    parents: messages show a path without them.
    """
    path = Path(name)
    with suppress(RuntimeError):  # no user is called so, but a file may be
        path = path.expanduser()
    while path.parts[:1] == ("..",):
        base, path = base.parent, Path(*path.parts[1:])
    return base / path


def load_domain(path: Path) -> DomainConfig:
    """Read one domain file; the file is named `<slug>.yaml`, and `slug` may be left out in it.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    target = Path(os.path.realpath(path))  # `Path.resolve` raises where links go round
    if not target.is_relative_to(os.path.realpath(path.parent)):
        raise ConfigError.of(path, f"is a link to {target}, out of its folder; copy the file here")
    document = read_yaml(path)
    document.fields.setdefault("slug", path.stem)
    config = validate(document, DomainConfig)
    if config.slug != path.stem:
        problem = f"is {config.slug!r}, so the file must be named {config.slug}.yaml"
        raise ConfigError.of(path, problem, "slug", document.line(("slug",)))
    return config.located(partial(absolute_path, path.resolve().parent))


def load_domains(directory: Path) -> tuple[dict[str, DomainConfig], list[Problem]]:
    """Read every `*.yaml` of a directory: the valid domains by slug, and the problems of the
    others.
    """
    domains = {}
    problems = misnamed(directory)
    for path in sorted(directory.glob("*.yaml")):
        try:
            domains[path.stem] = load_domain(path)
        except ConfigError as error:
            problems += error.problems
    return domains, problems


def misnamed(directory: Path) -> list[Problem]:
    """Return the files of a directory that look like domains and are not read, since their names
    end otherwise.
    """
    return [
        Problem(path, "", f"is not read: rename it to {path.stem}.yaml")
        for path in sorted(directory.glob("*"))
        if path.suffix.lower() in (".yml", ".yaml") and path.suffix != ".yaml"
    ]


def validate(document: Document, model: type[File]) -> File:
    """Return what a file holds as an instance of its model.

    Raises:
        ConfigError: Listing every problem, each with its line and field.
    """
    try:
        return model.model_validate(document.fields)
    except ValidationError as error:
        problems = sorted(_problems(document, error), key=lambda problem: problem.line)
    if (more := len(problems) - MAX_PROBLEMS) > 0:
        problems[MAX_PROBLEMS:] = [Problem(document.path, "", f"has {more:,} more problems")]
    raise ConfigError(problems)


def _problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    messages: defaultdict[Place, dict[str, None]] = defaultdict(dict)
    for fault in error.errors(include_url=False):
        place = _place(document, fault["loc"], fault["type"])
        messages[place][_message(fault, place)] = None
    parents = {place[:length] for place in messages for length in range(len(place))}
    # Of a union, the alternative that fails deeper in the file is the one that was meant.
    for place, alternatives in messages.items():
        if place not in parents:
            text = without_secrets("; or ".join(alternatives))
            yield Problem(document.path, ".".join(map(str, place)), text, document.line(place))


def _place(document: Document, location: tuple[str | int, ...], kind: str) -> Place:
    """Return where an error is in the file; pydantic's location also names alternatives of a type,
    and whether a key is wrong.
    """
    place: Place = ()
    for number, part in enumerate(location, 1):
        is_missing = kind == "missing" and number == len(location)
        if is_missing or (*place, part) in document.lines:
            place = (*place, part)
    return place


def _message(fault: Any, place: Place) -> str:
    if fault["type"] == "extra_forbidden":
        name, names = str(place[-1]), _field_names()
        hint = "another section or another `kind` has it"
        return f"unknown field; {hint if name in names else did_you_mean(name, names, 'remove it')}"
    text = re.sub("(?i)tuple", "list", fault["msg"].removeprefix("Value error, "))
    value = fault["input"]
    if fault["type"] == "value_error" or not isinstance(value, str | None):
        return text
    found = "nothing" if value is None else repr(value[:_MAX_SHOWN])
    return f"{text} (found {found})"


def _field_names() -> set[str]:
    """Return the names of the fields of all sections."""
    sections: list[type[Section]] = [Section]
    for section in sections:  # it grows
        sections += section.__subclasses__()
    return {name for section in sections for name in section.model_fields}
