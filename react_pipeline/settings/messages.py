"""Messages: checks a file as its models, and lists what pydantic finds wrong, each with its place.

Does not belong here: rules of a field (in its section, as a `ValueError` with a sentence of its
own).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from inspect import isclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from react_pipeline.settings.near_names import did_you_mean, near_names
from react_pipeline.settings.removed import removed
from react_pipeline.settings.secrets import without_secrets
from react_pipeline.settings.section import Kind
from react_pipeline.settings.yaml_files import Document, Place
from react_pipeline.store import ConfigError, Problem

MAX_PROBLEMS = 100
_MAX_SHOWN = 60


def validate(document: Document, models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the sections of a file as instances of `models`, by name; the model "" takes all other
    fields.

    Raises:
        ConfigError: Listing every problem, each with its line and field.
    """
    others = dict(document.fields)
    sections = {name: others.pop(name, {}) for name in models if name} | {"": others}
    instances: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, model in models.items():
        try:
            instances[name] = model.model_validate(sections[name])
        except ValidationError as error:
            problems += _problems(document, model, error, (name,) if name else ())
    problems.sort(key=lambda problem: problem.line)
    if (more := len(problems) - MAX_PROBLEMS) > 0:
        problems[MAX_PROBLEMS:] = [Problem(document.path, "", f"has {more:,} more problems")]
    if problems:
        raise ConfigError(problems)
    return instances


def _problems(
    document: Document, model: type[BaseModel], error: ValidationError, above: Place
) -> Iterator[Problem]:
    messages: defaultdict[Place, list[str]] = defaultdict(list)
    for fault in error.errors(include_url=False):
        place = _place(document, (*above, *fault["loc"]), fault["type"])
        messages[place].append(_message(fault, model, above, place))
    parents = {place[:length] for place in messages for length in range(len(place))}
    # Of a union, the alternative that fails deeper in the file is the one that was meant.
    for place, alternatives in messages.items():
        if place not in parents:
            text = without_secrets("; or ".join(dict.fromkeys(alternatives)))
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


def _message(fault: Any, model: type[BaseModel], above: Place, place: Place) -> str:
    if fault["type"] == "extra_forbidden":
        return _unknown(model, above, place)
    text = re.sub(r"^Value error, |^Input | or instance of \w+|, unable to.*", "", fault["msg"])
    text = re.sub("(?i)tuple", "list", text).replace("dictionary", "mapping")
    value = fault["input"]
    if value is None:
        return f"{text} (found nothing)"
    if not isinstance(value, str) or fault["type"] == "value_error":
        return text
    choices = re.findall("'([^']+)'", fault.get("ctx", {}).get("expected", ""))
    hint = removed(value) or did_you_mean(value, choices)
    return f"{text} (found {value[:_MAX_SHOWN]!r}){hint and '; ' + hint}"


def _unknown(model: type[BaseModel], above: Place, place: Place) -> str:
    """Return what to do about a field that is not known there."""
    name = str(place[-1])
    if gone := removed(name, ".".join(map(str, place))):
        return gone
    fields = list(_fields(model, above))
    near = near_names(name, {str(field[-1]) for field in fields})
    meant = [field for field in fields if field[-1] in near[:1]]
    if not meant:
        return "unknown field; remove it"
    nearest = max(meant, key=lambda field: len({*field[:-1]} & {*place}))
    if nearest == place:
        return "unknown field; another `kind` has it"
    return f"unknown field; did you mean {'.'.join(map(str, nearest))}?"


def _fields(model: type[BaseModel], above: Place = ()) -> Iterator[Place]:
    """Yield the path of every field of a model and of the sections in it."""
    for name, info in model.model_fields.items():
        yield (*above, name)
        for section in _sections(info.annotation):
            yield from _fields(section, (*above, name))


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isclass(annotation) and issubclass(annotation, Kind) and annotation.is_union():
        yield from annotation.kinds().values()
    elif isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
