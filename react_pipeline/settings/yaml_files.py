"""YAML files: the one reader of YAML, which refuses what is hostile or ambiguous, and edits of
them.

Does not belong here: which fields a file may hold (`config`), what to say of a wrong one
(`messages`).
"""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from react_pipeline.store import ConfigError, InputError, read_bounded, write_atomically

MAX_YAML_BYTES = 2_000_000
"""Larger configuration files are refused unread."""

MAX_DEPTH = 20
MAX_SCALAR = 10_000
MAX_EVENTS = 250_000
"""Of the parser, a second's work; ImageNet-21k with three synonyms a class has 220,000."""

_SafeLoader: type[yaml.SafeLoader | yaml.CSafeLoader] = (
    yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
)
"""libyaml reads the same files ten times as fast; a step reads its project and domain several
times.
"""


class _Loader(_SafeLoader):  # type: ignore[misc, valid-type]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a repeated key, of which YAML's own loader silently keeps the last."""
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in first:
                    message = (
                        f"`{key.value}` is repeated (first in line {first[key.value]}); keep one "
                        "of them"
                    )
                    raise yaml.MarkedYAMLError(problem=message, problem_mark=key.start_mark)
                first[key.value] = line_of(key)
        return dict(super().construct_mapping(node, deep))


def line_of(node: yaml.Node) -> int:
    """The line in which a node begins, from 1."""
    return int(node.start_mark.line) + 1


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping: no tags, no aliases, no repeated key, no more than `MAX_YAML_BYTES`.

    Raises:
        ConfigError: If the file is missing, no regular file, too large, not UTF-8, not YAML, or not
            a mapping, and whatever else the parser raises: one file never stops the others.
    """
    try:
        return parse_yaml(_read(path), path)
    except OSError as error:
        raise ConfigError.of(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        problem = f"is not text in UTF-8 ({error}); save it as UTF-8"
        raise ConfigError.of(path, problem) from error


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """The mapping that the text of a file holds; errors as of `read_yaml`."""
    try:
        _refuse_bombs(path, text)
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
        # A lone surrogate, written as an escape, is text that no file can hold.
        json.dumps(loaded, default=str, ensure_ascii=False).encode()
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        raise ConfigError.of(path, f"is not valid YAML: {_what_is_wrong(error)}") from error
    except Exception as error:
        words = " ".join(str(error).split())[:500]
        raise ConfigError.of(path, f"is not valid YAML: {words}") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        kind = {type(None): "is empty", list: "is a list"}.get(type(loaded), "is not one")
        problem = f"must be a mapping, with lines such as `field: value`; it {kind}"
        raise ConfigError.of(path, problem)
    return loaded


def compose_yaml(text: str) -> yaml.Node | None:
    """The nodes of a text that `parse_yaml` accepts; each knows its place in the text."""
    return yaml.compose(text, Loader=_Loader)


def in_brackets(value: Any) -> str:
    """A value as an item of a list in brackets, which is valid wherever a value is."""
    text: str = yaml.safe_dump(
        [value], default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False
    )
    return text.strip()[1:-1]


def edit_yaml(
    path: Path, edits: Iterable[tuple[int, int, str]], expected: Mapping[str, Any]
) -> None:
    """Replace parts of the text of a file, each from one character to another; all else stays as it
    is written.

    Raises:
        InputError: If the file would not hold `expected` then; nothing is written.
    """
    text = _read(path)
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    parsed = None
    with suppress(ConfigError):
        parsed = parse_yaml(text, path)
    if parsed != expected:
        raise InputError(f"{path}: cannot be changed without rewriting it; change it by hand")
    write_atomically(path, text)


def read_nodes(path: Path) -> yaml.Node | None:
    """The nodes of a file that `read_yaml` has read; None if it is another one by now."""
    try:
        return compose_yaml(_read(path))
    except Exception:
        return None


def _read(path: Path) -> str:
    return read_bounded(path, MAX_YAML_BYTES).decode()


def _refuse_bombs(path: Path, text: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if problem := _refused(event, depth, number):
            where = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
            raise ConfigError.of(path, where + problem)


def _refused(event: yaml.Event, depth: int, number: int) -> str:
    """Why an event of the parser is refused; "" if it is not."""
    value = getattr(event, "value", "")
    if isinstance(event, yaml.AliasEvent):  # a few expand to gigabytes
        return "YAML aliases (*name) are refused; write the value out"
    if getattr(event, "tag", None) is not None:
        return "YAML tags (!!name) are refused; write plain text, numbers, lists and mappings"
    if "\0" in value:
        return "a value holds a NUL, which no path and no database takes"
    if depth > MAX_DEPTH:
        return f"lists and mappings are nested more than {MAX_DEPTH} deep"
    if len(value) > MAX_SCALAR:  # numbers take quadratic time
        return f"a value is longer than {MAX_SCALAR:,} characters"
    return f"holds more than {MAX_EVENTS:,} values" if number > MAX_EVENTS else ""


def _what_is_wrong(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = f"line {mark.line + 1}: " if mark else ""
    message = " ".join(str(error.problem or error.context).split())[:500]
    if "cannot start any token" in message:
        message += (
            " (a tab, or a value that begins with @, ` or %: indent with blanks, and quote the "
            "value)"
        )
    if error.context_mark and mark and error.context_mark.line < mark.line:
        message += f" ({error.context}, which begins in line {error.context_mark.line + 1})"
    return line + message
