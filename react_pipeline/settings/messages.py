"""Messages: checks a file as its models, and lists what pydantic finds wrong, each with its place.

Does not belong here: rules of a field (in its section, as a `ValueError` with a sentence of its
own).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from react_pipeline.settings.near_names import did_you_mean, near_names
from react_pipeline.settings.removed import removed
from react_pipeline.settings.secrets import without_secrets
from react_pipeline.settings.section import Section
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
            problems += _problems(document, error, (name,) if name else ())
    problems.sort(key=lambda problem: problem.line)
    if (more := len(problems) - MAX_PROBLEMS) > 0:
        problems[MAX_PROBLEMS:] = [Problem(document.path, "", f"has {more:,} more problems")]
    if problems:
        raise ConfigError(problems)
    return instances


def _problems(document: Document, error: ValidationError, above: Place) -> Iterator[Problem]:
    messages: defaultdict[Place, list[str]] = defaultdict(list)
    for fault in error.errors(include_url=False):
        place = _place(document, (*above, *fault["loc"]), fault["type"])
        messages[place].append(_message(fault, place))
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


def _message(fault: Any, place: Place) -> str:
    if fault["type"] == "extra_forbidden":
        return _unknown(place)
    text = re.sub(r"^Value error, |^Input | or instance of \w+|, unable to.*", "", fault["msg"])
    text = re.sub("(?i)tuple", "list", text).replace("dictionary", "mapping")
    value = fault["input"]
    if value is None:
        return f"{text} (found nothing)"
    if not isinstance(value, str) or fault["type"] == "value_error":
        return text
    choices = re.findall("'([^']+)'", fault.get("ctx", {}).get("expected", ""))
    hint = removed(value) or did_you_mean(value, choices)
    return f"{text} (found {without_secrets(value)[:_MAX_SHOWN]!r}){hint and '; ' + hint}"


def _unknown(place: Place) -> str:
    """Return what to do about a field that is not known there."""
    name = str(place[-1])
    if gone := removed(name, ".".join(map(str, place))):
        return gone
    near = near_names(name, _field_names())
    if name in near:
        return "unknown field here; another section or another `kind` has it"
    return f"unknown field; did you mean {near[0]}?" if near else "unknown field; remove it"


def _field_names() -> set[str]:
    """Return the names of the fields of all sections."""
    sections: list[type[Section]] = [Section]
    for section in sections:  # it grows
        sections += section.__subclasses__()
    return {name for section in sections for name in section.model_fields}
