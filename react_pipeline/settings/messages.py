"""Messages: what pydantic finds wrong with a file, in sentences about what its user wrote.

Does not belong here: rules of a field (in its section, as a `ValueError` with a sentence of its
own).
"""

import json
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from react_pipeline.settings.near_names import did_you_mean, near_names
from react_pipeline.settings.secrets import without_secrets
from react_pipeline.settings.training import Section
from react_pipeline.settings.yaml_files import line_of, read_nodes
from react_pipeline.store import Problem

MAX_PROBLEMS = 100
_MAX_SHOWN = 60
_EXAMPLES = 4
"""How many names of fields a message lists."""

_SENTENCES = {
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be a whole number"
    ),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("dict_type", "mapping_type"), "must be a mapping, such as {{name: value}}"),
    "string_too_short": "is empty",
    "string_too_long": "is longer than {max_length} characters",
    "too_short": "is too short: list at least {min_length}",
    "too_long": "is too long: list at most {max_length}",
}
_OWN = ("value_error", "assertion_error")
"""Sentences of our own rules."""


@dataclass(frozen=True)
class _Fault:
    """An error of pydantic: `path` is its place in the file, `section` and `info` what the field is
    there.
    """

    kind: str
    path: tuple[int | str, ...]
    section: type[BaseModel]
    info: FieldInfo | None
    in_union: bool
    value: Any
    context: Mapping[str, Any]
    message: str


def problems_of(model: type[BaseModel], raw: Any, errors: list[Any], file: Path) -> list[Problem]:
    """One problem a field, with its line; `MAX_PROBLEMS` at most, and how many more there are.

    Args:
        raw: What the file holds.
        errors: Of pydantic, for `raw` as `model`.
    """
    faults = _distinct([_fault(model, raw, error) for error in errors])
    written = dict(_written(read_nodes(file)))
    meant = {(fault.path[:-1], name) for fault in faults if (name := _meant(fault))}
    # A field that is only misspelt is not missing.
    faults = [
        fault
        for fault in faults
        if fault.kind != "missing" or (fault.path[:-1], fault.path[-1]) not in meant
    ]
    problems = []
    for fault in faults[:MAX_PROBLEMS]:
        text, line = written.get(fault.path, ("", 0))
        where = f" (line {line})" if line else ""
        sentence = without_secrets(_sentence(fault, model, text))
        problems.append(Problem(file, ".".join(map(str, fault.path)), sentence + where))
    more = len(faults) - MAX_PROBLEMS
    if more > 0:
        problems.append(Problem(file, "", f"has {more:,} more problems"))
    return problems


def truths_for_numbers(model: type[BaseModel], raw: Any) -> list[Any]:
    """Errors, in pydantic's form, of values that are true or false where a number belongs: pydantic
    takes them as 1.
    """
    errors = []
    for location, value in _leaves(raw):
        info = _field_at(model, location)[1] if isinstance(value, bool) else None
        types = set() if info is None else set(_types_in(info.annotation))
        if types & {int, float} and bool not in types:
            kind = "int_type" if int in types else "float_type"
            errors.append({"type": kind, "loc": location, "input": value, "msg": ""})
    return errors


def _leaves(
    raw: Any, location: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], Any]]:
    if isinstance(raw, (dict, list)):
        for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
            yield from _leaves(value, (*location, key))
    else:
        yield location, raw


def _types_in(annotation: Any) -> Iterator[Any]:
    inside = get_args(annotation)
    for part in inside:
        yield from _types_in(part)
    if not inside:
        yield annotation


def _section_in(info: FieldInfo) -> type[BaseModel] | None:
    kinds = (
        kind
        for kind in _types_in(info.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    )
    return next(kinds, None)


def _field_at(
    model: type[BaseModel], path: tuple[int | str, ...]
) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section that a path leads into, and the last field on the way."""
    section = model
    info = None
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            info = section.model_fields[part]
            section = _section_in(info) or section
    return section, info


def _fault(model: type[BaseModel], raw: Any, error: Any) -> _Fault:
    """An error with its place: pydantic's also names the alternatives of a type, which are nowhere
    in the file.
    """
    path: list[int | str] = []
    value = raw
    last = len(error["loc"]) - 1
    for number, part in enumerate(error["loc"]):
        is_there = isinstance(value, (dict, list)) and part in _places(value)
        if is_there:
            value = value[part]
        if is_there or (error["type"] == "missing" and number == last and isinstance(part, str)):
            path.append(part)
    section, info = _field_at(model, tuple(path))
    in_union = len(path) < len(error["loc"]) and error["type"] not in _OWN
    message = str(error["msg"]).removeprefix("Value error, ")
    kind = error["type"]
    if kind == "missing" and isinstance(error["loc"][-1], int):  # of a list of fixed length
        kind = "too_short"
    return _Fault(
        kind, tuple(path), section, info, in_union, error["input"], error.get("ctx", {}), message
    )


def _places(raw: dict[Any, Any] | list[Any]) -> Container[Any]:
    return raw if isinstance(raw, dict) else range(len(raw))


def _distinct(faults: list[_Fault]) -> list[_Fault]:
    """One fault a field, and none that only follows from one inside the field."""
    above = {fault.path[:length] for fault in faults for length in range(len(fault.path))}
    first: dict[Any, _Fault] = {}
    for fault in faults:
        if fault.path in above and (fault.in_union or fault.kind == "too_short"):
            continue
        field = (fault.path, fault.message) if fault.kind in _OWN else fault.path
        first.setdefault(field, fault)
    return list(first.values())


def _sentence(fault: _Fault, model: type[BaseModel], text: str) -> str:
    value = fault.value
    kind = fault.kind
    if kind in _OWN:
        return fault.message
    if kind == "extra_forbidden":
        return _unknown(fault, model)
    if kind == "missing":
        meaning = fault.info.description if fault.info else None
        return f"is missing: {meaning}" if meaning else "is missing"
    if value is None:
        return "is empty: write a value, or remove it"
    written = repr(value) if isinstance(value, str) else text or str(value)
    shown = f" (found {written[:_MAX_SHOWN]})" if isinstance(value, (str, int, float, date)) else ""
    if kind in ("string_type", "path_type") and isinstance(value, (bool, int, float, date)):
        return _quote(value, text)
    types = _types_in(fault.info.annotation) if fault.info else ()
    choices = [kind for kind in types if isinstance(kind, str)]
    expected = fault.info.description if fault.info else None
    if kind == "literal_error" and not expected:
        expected = fault.context["expected"].replace("'", "")
    if expected:
        near = did_you_mean(value, choices) if isinstance(value, str) else ""
        return f"must be {expected}{f'; {near}' if near else ''}{shown}"
    if kind == "tuple_type" and shown:
        return f"must be a list; write [{text or value}]"
    if kind == "model_type":
        names = ", ".join(f"`{name}`" for name in list(fault.section.model_fields)[:_EXAMPLES])
        return f"must be a mapping with fields such as {names}{shown}"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**fault.context) + (shown if value != "" else "")
    return re.sub(r"^\w+ should", "must", fault.message) + shown


def _quote(value: bool | int | float | date, text: str) -> str:
    """The answer to a name that YAML reads as something else, such as yes, 12 and 2024-01-01."""
    written = text or str(value)
    read = "a date" if isinstance(value, date) else "a number"
    if isinstance(value, bool):
        read = str(value).lower()
    quoted = json.dumps(written, ensure_ascii=False)
    return f"{written} is read as {read}, not as text: quote it: {quoted}"


def _meant(fault: _Fault) -> str:
    """The field of the same section that a misspelt one is taken for."""
    if fault.kind != "extra_forbidden":
        return ""
    return next(iter(near_names(str(fault.path[-1]), fault.section.model_fields)), "")


def _unknown(fault: _Fault, model: type[BaseModel]) -> str:
    name = str(fault.path[-1])
    if issubclass(fault.section, Section) and (message := fault.section.unknown_field(name)):
        return message
    elsewhere = [
        ".".join(path[:-1]) for path in _fields_below(model) if path[-1] == name and len(path) > 1
    ]
    if name in model.model_fields:
        return f"unknown field here; `{name}` belongs to the top of the file, without indentation"
    if elsewhere:
        return f"unknown field here; `{name}` belongs under `{elsewhere[0]}`"
    names = list(fault.section.model_fields)
    otherwise = f"remove it; there are {', '.join(names)}"
    return f"unknown field; {did_you_mean(name, names, otherwise)}"


def _fields_below(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, info in model.model_fields.items():
        yield (*above, name)
        if section := _section_in(info):
            yield from _fields_below(section, (*above, name))


def _written(
    node: yaml.Node | None, path: tuple[int | str, ...] = (), line: int = 0
) -> Iterator[tuple[tuple[int | str, ...], tuple[str, int]]]:
    """For each path of a file what it says there, "" if that is no single value, and the line."""
    yield path, (node.value if isinstance(node, yaml.ScalarNode) else "", line)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield from _written(value, (*path, key.value), line_of(key))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _written(item, (*path, number), line_of(item))
