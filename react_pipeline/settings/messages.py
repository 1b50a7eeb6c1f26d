"""Messages: checks a file as its model, and lists what pydantic finds wrong, each with its place.

Does not belong here: rules of a field (in its section, as a `ValueError` with a sentence of its
own).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from react_pipeline.settings.names import did_you_mean
from react_pipeline.settings.secrets import without_secrets
from react_pipeline.settings.section import Section
from react_pipeline.settings.yaml_files import Document, Place
from react_pipeline.store import ConfigError, Problem

File = TypeVar("File", bound=Section)

MAX_PROBLEMS = 100
_MAX_SHOWN = 60


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
    choices = re.findall("'([^']+)'", fault.get("ctx", {}).get("expected", ""))
    hint = did_you_mean(value or "", choices)
    found = "nothing" if value is None else repr(value[:_MAX_SHOWN])
    return f"{text} (found {found}){hint and '; ' + hint}"


def _field_names() -> set[str]:
    """Return the names of the fields of all sections."""
    sections: list[type[Section]] = [Section]
    for section in sections:  # it grows
        sections += section.__subclasses__()
    return {name for section in sections for name in section.model_fields}
