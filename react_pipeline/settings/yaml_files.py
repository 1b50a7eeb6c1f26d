"""YAML files: the one reader of YAML, which refuses what is ambiguous or hostile.

Every scalar is read as the text that was written, or None: the type of its field says what it is,
so a class may be called `no`, `12` or `2024-01-01`. Files are read from libyaml's nodes, which know
their lines: ten times as fast as a reader in Python.

Does not belong here: which fields a file may hold (`config`), what to say of a wrong one
(`files`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from react_pipeline.store import ConfigError, read_bounded

MAX_YAML_BYTES = 2_000_000
"""Larger configuration files are refused unread."""

MAX_DEPTH = 20
MAX_NODES = 250_000
"""Values, lists and mappings; ImageNet-21k with three synonyms a class has 180,000."""

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
_TAGS |= {tag for row in yaml.SafeLoader.yaml_implicit_resolvers.values() for tag, _ in row}
"""Of values without one of their own; all scalars are texts here."""

Place = tuple[str | int, ...]
"""Names of fields and indices of lists, from the top of a file to a value."""


@dataclass
class Document:
    """What a YAML file holds, and where.

    Attributes:
        fields: The mapping of the file; each scalar is a text or None.
        lines: The line in which each field or item begins, from 1.
    """

    path: Path
    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    _nodes: set[yaml.Node] = field(default_factory=set)

    def line(self, place: Place) -> int:
        """Return the line of a place, or of what should hold it; 0 for the file as a whole."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 0)

    def load(self, node: yaml.Node, place: Place = ()) -> Any:
        """Return the value of a node, and remember where it is."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if node in self._nodes:  # a few of them expand to gigabytes
            raise self._refused(node, "aliases (*name) are refused; write the value out")
        self._nodes.add(node)
        if node.tag not in _TAGS:
            raise self._refused(node, "tags (!name) are refused; remove it")
        if len(place) > MAX_DEPTH:
            raise self._refused(node, f"is nested more than {MAX_DEPTH} deep")
        if len(self._nodes) > MAX_NODES:
            raise self._refused(node, f"holds more than {MAX_NODES:,} values")
        if isinstance(node, yaml.SequenceNode):
            return [self.load(item, (*place, number)) for number, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._load_fields(node, place)
        text = str(node.value)
        if "\0" in text:
            raise self._refused(node, "holds a NUL, which no path and no database takes")
        text.encode()
        is_plain = not getattr(node, "style", None)
        return None if is_plain and text in ("", "~", "null", "Null", "NULL") else text

    def _load_fields(self, node: yaml.Node, place: Place) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._refused(key, "not valid YAML: the name of a field must be text")
            name, inside = key.value, (*place, key.value)
            if name in fields:
                first = self.lines[inside]
                raise self._refused(key, f"`{name}` is repeated (first in line {first})")
            self.lines[inside] = key.start_mark.line + 1
            fields[name] = self.load(value, inside)
        return fields

    def _refused(self, node: yaml.Node, problem: str) -> ConfigError:
        return ConfigError.of(self.path, problem, line=node.start_mark.line + 1)


def read_yaml(path: Path) -> Document:
    """Read one YAML mapping: no tags, no aliases, no repeated key, no more than `MAX_YAML_BYTES`.

    Raises:
        ConfigError: If the file is missing, no regular file, too large, not UTF-8, not YAML, or not
            a mapping.
    """
    document = Document(path)
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not in a build without libyaml
        root = yaml.compose(read_bounded(path, MAX_YAML_BYTES).decode(), Loader=loader)
        fields = None if root is None else document.load(root)
    except OSError as error:
        raise ConfigError.of(path, f"cannot be read: {error.strerror or error}") from error
    except (UnicodeError, yaml.YAMLError) as error:  # an escape may hide what no file can hold
        mark = getattr(error, "problem_mark", None)
        problem, line = getattr(error, "problem", None) or error, mark.line + 1 if mark else 0
        problem = f"not valid YAML, saved as UTF-8: {problem}"
        raise ConfigError.of(path, problem, line=line) from error
    if not isinstance(fields, dict):
        raise ConfigError.of(path, "must be a mapping, with lines such as `field: value`")
    document.fields = fields
    return document
