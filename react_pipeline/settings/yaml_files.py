"""YAML files: the one reader of YAML, which refuses what is ambiguous or hostile, and edits.

Every scalar is read as the text that was written, or None: the type of its field says what it is,
so a class may be called `no`, `12` or `2024-01-01`. Files are read from libyaml's events, which
know their places: ten times as fast as a reader in Python, and edits leave all other text alone.

Does not belong here: which fields a file may hold (`config`), what to say of a wrong one
(`messages`).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import yaml

from react_pipeline.store import ConfigError, InputError, read_bounded

MAX_YAML_BYTES = 2_000_000
"""Larger configuration files are refused unread."""

MAX_DEPTH = 20
MAX_EVENTS = 250_000
"""Values, lists and mappings, a second's work; ImageNet-21k with three synonyms a class has
220,000.
"""

_Parser = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

Place = tuple[str | int, ...]
"""Names of fields and indices of lists, from the top of a file to a value."""


@dataclass
class Document:
    """What a YAML file holds, and where.

    Attributes:
        fields: The mapping of the file; each scalar is a text or None.
        lines: The line in which each field or item begins, from 1.
        spans: The characters that each scalar takes in `text`, from and to.
    """

    path: Path
    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    spans: dict[Place, tuple[int, int]] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """Return the line of a place, or of what should hold it; 0 for the file as a whole."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 0)


def read_yaml(path: Path) -> Document:
    """Read one YAML mapping: no tags, no aliases, no repeated key, no more than `MAX_YAML_BYTES`.

    Raises:
        ConfigError: If the file is missing, no regular file, too large, not UTF-8, not YAML, or not
            a mapping.
    """
    try:
        text = read_bounded(path, MAX_YAML_BYTES).decode()
    except OSError as error:
        raise ConfigError.of(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError.of(path, f"is not UTF-8 ({error}); save it as UTF-8") from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> Document:
    """Return what the text of a file holds; errors as of `read_yaml`."""
    document = Document(path, text)
    try:
        events = yaml.parse(text, Loader=_Parser)
        loaded = _Reader(document, events).whole()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise _refusal(path, f"not valid YAML: {problem}", mark) from error
    except UnicodeEncodeError as error:  # an escape may hide what no file can hold
        raise ConfigError.of(path, f"not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError.of(path, "must be a mapping, with lines such as `field: value`")
    document.fields = loaded
    return document


def _refusal(path: Path, problem: str, mark: Any) -> ConfigError:
    return ConfigError.of(path, problem, line=mark.line + 1 if mark else 0)


class _Reader:
    """Builds a document from the events of the parser."""

    def __init__(self, document: Document, events: Iterator[Any]) -> None:
        self.document = document
        self.events = enumerate(events)

    def whole(self) -> Any:
        """Return the value of the only document; None if there is none."""
        loaded = None
        for _, event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.document.lines:
                    raise self.refused(event, "holds a second document (---)")
                loaded = self.value(self.next(()), ())
        return loaded

    def next(self, place: Place) -> Any:
        """Return the next event, unless it is hostile: a few aliases expand to gigabytes."""
        number, event = next(self.events)
        if isinstance(event, yaml.AliasEvent):
            raise self.refused(event, "aliases (*name) are refused; write the value out")
        if getattr(event, "tag", None) is not None:
            raise self.refused(event, "tags (!name) are refused; remove it")
        if len(place) > MAX_DEPTH:
            raise self.refused(event, f"is nested more than {MAX_DEPTH} deep")
        if number > MAX_EVENTS:
            raise self.refused(event, f"holds more than {MAX_EVENTS:,} values")
        return event

    def refused(self, event: Any, problem: str) -> ConfigError:
        return _refusal(self.document.path, problem, event.start_mark)

    def value(self, event: Any, place: Place) -> Any:
        """Return the value that begins with an event."""
        self.document.lines.setdefault(place, event.start_mark.line + 1)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(place)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := self.next(place), yaml.SequenceEndEvent):
                items.append(self.value(event, (*place, len(items))))
            return items
        return self.scalar(event, place)

    def mapping(self, place: Place) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        while not isinstance(event := self.next(place), yaml.MappingEndEvent):
            if not hasattr(event, "value"):
                raise self.refused(event, "not valid YAML: the name of a field must be text")
            name, inside = event.value, (*place, event.value)
            if name in fields:
                first = self.document.lines[inside]
                raise self.refused(event, f"`{name}` is repeated (first in line {first})")
            self.document.lines[inside] = event.start_mark.line + 1
            fields[name] = self.value(self.next(place), inside)
        return fields

    def scalar(self, event: Any, place: Place) -> str | None:
        self.document.spans[place] = event.start_mark.index, event.end_mark.index
        text = str(event.value)
        if "\0" in text:
            raise self.refused(event, "holds a NUL, which no path and no database takes")
        text.encode()
        is_plain = event.implicit[0]
        return None if is_plain and text in ("", "~", "null", "Null", "NULL") else text


def edited_yaml(document: Document, texts: Mapping[Place, str]) -> str:
    """Return the text of a file with other scalars; all else stays as it is written.

    Raises:
        InputError: If the file would not hold them then.
    """
    edited = document.text
    expected = deepcopy(document.fields)
    for place, text in sorted(
        texts.items(), key=lambda edit: document.spans[edit[0]], reverse=True
    ):
        start, end = document.spans[place]
        edited = f"{edited[:start]}{_in_brackets(text)}{edited[end:]}"
        holder: Any = expected
        for part in place[:-1]:
            holder = holder[part]
        holder[place[-1]] = text
    with suppress(ConfigError):
        if parse_yaml(edited, document.path).fields == expected:
            return edited
    raise InputError(f"{document.path}: cannot be changed in place; change it by hand")


def _in_brackets(text: str) -> str:
    """Return a text as an item of a list in brackets, which is valid wherever a value is."""
    dumped: str = yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=inf)
    return dumped.strip()[1:-1]
