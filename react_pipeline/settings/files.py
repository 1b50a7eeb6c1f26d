"""Configuration files: `pipeline.yaml` and domain files as models, with absolute paths, and what is
wrong with a file, each problem with its place.

YAML that is ambiguous or hostile is refused. Every scalar is read as the text that was written, or
None: the type of its field says what it is, so a class may be called `no`, `12` or `2024-01-01`.
libyaml parses, ten times as fast as Python. Does not belong here: which fields there are and what
they may hold (`config`), rules of a field (in its section, as a `ValueError` with a sentence of its
own).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from react_pipeline.settings.addresses import has_secret, without_secrets
from react_pipeline.settings.config import DomainConfig, PipelineConfig, pipeline_model
from react_pipeline.settings.section import Section, did_you_mean
from react_pipeline.store import ConfigError, Problem, read_bounded

TRACKING_VARIABLE = "REACT_TRACKING_URI"
"""Overrides `tracking_uri`; the only place for a database address with a password."""

File = TypeVar("File", bound=Section)

MAX_YAML_BYTES = 2_000_000
"""Larger configuration files are refused unread."""

Place = tuple[str | int, ...]
"""Names of fields and indices of lists, from the top of a file to a value."""

MAX_PROBLEMS, MAX_DEPTH = 100, 20
_MAX_SHOWN = 60
_NOTHING = ("", "~", "null", "Null", "NULL")

_STORE_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]+(/[A-Za-z0-9._=-]+)*/?")


def load_pipeline(path: Path) -> PipelineConfig:
    """Read `pipeline.yaml`; its relative paths become absolute.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    document = read_yaml(path)
    url = _take_store_url(document)
    config = validate(document, pipeline_model(), path.resolve().parent)
    store = config.cache.folder if url else config.store  # of a server's store: our part of it
    if misplaced := config.corpus.misplaced(store):
        field, problem = misplaced
        raise document.error(problem, "corpus", field)
    default_uri = f"sqlite:///{store.parent / 'mlflow.db'}"
    uri = _tracking_uri(path) or config.tracking_uri or default_uri
    config = config.model_copy(update={"store": store, "tracking_uri": uri})
    config._store_url = url
    return config


def _take_store_url(document: Document) -> str:
    """Take the URL that `store` holds in place of a folder out of a file; "" if it holds none."""
    store = document.fields.get("store")
    if not isinstance(store, str) or "://" not in store:
        return ""
    if not _STORE_URL.fullmatch(store):
        problem = "must be a folder, or s3://, gs:// or az:// with NAME/PREFIX, no password or `?`"
        raise document.error(problem, "store")
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
    config = validate(document, DomainConfig, path.resolve().parent)
    if config.slug != path.stem:
        problem = f"is {config.slug!r}, so the file must be named {config.slug}.yaml"
        raise document.error(problem, "slug")
    return config


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


def read_yaml(path: Path) -> Document:
    """Read one YAML mapping: no tags, no aliases, no repeated key, no more than `MAX_YAML_BYTES`.

    Raises:
        ConfigError: If the file is missing, no regular file, too large, not UTF-8, not YAML, or not
            a mapping.
    """
    try:
        root = yaml.compose(read_bounded(path, MAX_YAML_BYTES).decode(), _Loader)
        fields, lines = _read_nodes(root) if root else (None, {})
    except OSError as error:
        raise ConfigError.of(path, f"cannot be read: {error.strerror or error}") from error
    except (UnicodeError, yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem, line = getattr(error, "problem", None) or error, mark.line + 1 if mark else 0
        raise ConfigError.of(path, f"not valid YAML: {problem}", line=line) from error
    if not isinstance(fields, dict):
        raise ConfigError.of(path, "must be a mapping, with lines such as `field: value`")
    return Document(path, fields, lines)


_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # a build without libyaml has one


def _read_nodes(root: yaml.Node) -> tuple[Any, dict[Place, int]]:
    """Return what a file holds as texts, None, lists and mappings, and the line of each by its
    place.
    """
    seen: set[yaml.Node] = set()
    lines: dict[Place, int] = {}

    def read(node: yaml.Node, place: Place) -> Any:
        if node in seen:
            raise _refused(node, "aliases (*name) are refused; write the value out")
        if not node.tag.endswith((":str", ":seq", ":map")):
            raise _refused(node, "tags (!name) are refused; remove it")
        if len(place) > MAX_DEPTH:
            raise _refused(node, "is nested too deep")
        seen.add(node)
        lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [read(item, (*place, number)) for number, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            if "\0" in node.value:
                raise _refused(node, "holds a NUL, which no path and no database takes")
            is_plain = not node.style
            return None if is_plain and node.value in _NOTHING else node.value
        fields: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(key, "the name of a field must be a text")
            read(key, (*place, key.value))  # a field is where its name is
            name = key.value
            if name in fields:
                raise _refused(key, f"`{name}` is repeated")
            fields[name] = read(value, (*place, name))
        return fields

    return read(root, ()), lines


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


@dataclass(frozen=True)
class Document:
    """What a YAML file holds, and where.

    Attributes:
        fields: The mapping of the file; each scalar is a text or None.
        lines: The line of each value, from 1; that of a field is its name's.
    """

    path: Path
    fields: dict[str, Any]
    lines: dict[Place, int]

    def find(self, location: Iterable[str | int]) -> tuple[Place, int]:
        """Return the parts of a location that are in the file, and the line of the last."""
        place: Place = ()
        for part in location:
            if (*place, part) in self.lines:
                place = (*place, part)
        return place, self.lines[place]

    def error(self, problem: str, *place: str) -> ConfigError:
        """Return the error of a field."""
        return ConfigError.of(self.path, problem, ".".join(place), self.find(place)[1])


def validate(document: Document, model: type[File], folder: Path) -> File:
    """Return what a file holds as an instance of its model, with paths made absolute from a folder.

    Raises:
        ConfigError: Listing every problem, each with its line and field.
    """
    try:
        return model.model_validate(document.fields, context=folder)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    problems = sorted(_problems(document, faults[:MAX_PROBLEMS]), key=lambda one: one.line)
    if (more := len(faults) - MAX_PROBLEMS) > 0:
        problems.append(Problem(document.path, "", f"has {more:,} more problems"))
    raise ConfigError(problems)


def _problems(document: Document, faults: Sequence[Any]) -> Iterator[Problem]:
    messages: defaultdict[Place, dict[str, None]] = defaultdict(dict)
    lines: dict[Place, int] = {}
    for fault in faults:
        # pydantic's location also names alternatives of a type, and whether a key is wrong.
        place, line = document.find(fault["loc"])
        if fault["type"] == "missing":
            place = (*place, fault["loc"][-1])
        messages[place][_message(fault, place)] = None
        lines[place] = line
    parents = {place[:length] for place in messages for length in range(len(place))}
    # Of a union, the alternative that fails deeper in the file is the one that was meant.
    for place, alternatives in messages.items():
        if place not in parents:
            text = without_secrets("; or ".join(alternatives))
            yield Problem(document.path, ".".join(map(str, place)), text, lines[place])


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
