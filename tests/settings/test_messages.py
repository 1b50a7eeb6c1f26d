"""What a user reads of a wrong file: a line a field that says what to write, and no word of
pydantic's.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import react_pipeline
from react_pipeline.settings.config import DomainConfig, PipelineConfig
from react_pipeline.settings.files import load_domain, load_pipeline
from react_pipeline.store.errors import ConfigError

DOMAIN: dict[str, Any] = {"classes": ["robin", "wren"]}
PIPELINE: dict[str, Any] = {"corpus": {"kind": "demo"}, "encoder": {"model": "demo"}}
JARGON = re.compile(
    r"Input should|Field required|valid dictionary|instance of|\btuple\b|[Ss]tring "
    r"should|validation|match pattern|"
    r"NoneType|<class|pydantic|constrained|literal\[|\[key\]|Config\b|cannot be checked|\^"
)
WRONG_VALUES = [None, True, -7, "x y", ["ü"], [12], [None], {"x": 1}]


def faults(folder: Path, name: str, content: object) -> list[str]:
    """The lines of the error of a file, without its path; none if it is valid."""
    path = folder / name
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
    )
    try:
        (load_pipeline if name == "pipeline.yaml" else load_domain)(path)
    except ConfigError as error:
        return [line.removeprefix(f"{path}: ") for line in str(error).splitlines()]
    return []


def fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of a model and of the models in it."""
    for name, info in model.model_fields.items():
        yield (*above, name)
        for inner in sections_in(info.annotation):
            yield from fields(inner, (*above, name))


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from sections_in(part)


@pytest.mark.parametrize(("model", "name", "good"), [
    (DomainConfig, "birds.yaml", DOMAIN), (PipelineConfig, "pipeline.yaml", PIPELINE)
])  # fmt: skip
def test_no_wrong_value_of_any_field_is_answered_in_jargon(
    tmp_path: Path, model: type[BaseModel], name: str, good: dict[str, Any]
) -> None:
    paths = list(fields(model))
    assert len(paths) > 40
    for path in paths:
        # Of a section that is given otherwise the rest stays valid.
        given = good.get(path[0])
        above = given if isinstance(given, dict) and len(path) > 1 else {}
        for value in WRONG_VALUES:
            inner: Any = value
            for part in reversed(path[1:]):
                inner = {part: inner}
            content = {**good, path[0]: {**above, **inner} if len(path) > 1 else inner}
            for line in faults(tmp_path, name, content):
                field, _, message = line.partition(": ")
                assert message and not JARGON.search(line), (path, value, line)


@pytest.mark.parametrize(
    ("text", "field", "token"),
    [
        ("classes: [wren, yes]", "classes.1", 'quote it: "yes"'),
        ("classes: [wren, 12]", "classes.1", 'quote it: "12"'),
        ("classes: [wren, 2024-01-01]", "classes.1", 'quote it: "2024-01-01"'),
        ("classes: [wren, {name: off}]", "classes.1.name", 'quote it: "off"'),
        ("classes: [wren, {name: a, synonyms: [no]}]", "classes.1.synonyms.0", 'quote it: "no"'),
        ("classes: robin", "classes", "write [robin]"),
        ("classes:", "classes", "is empty"),
        ("classes: [wren, ~]", "classes.1", "is empty"),
        ("classes: [wren, '  ']", "classes.1", "nothing that can be seen"),
        ('classes: [wren, "\\u200b\\u2060"]', "classes.1", "nothing that can be seen"),
        ('classes: [wren, "a\\tb"]', "classes.1", "control"),
        ('classes: [wren, "a\\u202eb"]', "classes.1", "control"),
        ('classes: [wren, "wr\\u200ben"]', "classes", "occurs twice"),
        ("classes: [wren, '=1+2']", "classes.1", "formula"),
        ("classes: [wren, '@SUM(A1)']", "classes.1", "formula"),
        ('classes: [wren, "-2|cmd!A1"]', "classes.1", "formula"),
        ("classes: [wren, '+HYPERLINK(1)']", "classes.1", "formula"),
        ("classes: [a, b]\ntitle: 12", "title", 'quote it: "12"'),
        ("classes: [a, b]\ntemplates: imagnet", "templates", "did you mean imagenet?"),
        ("classes: [a, b]\ntemplates: []", "templates", "the list is empty"),
        ("classes: [a, b]\ntemplates: [12]", "templates.0", 'quote it: "12"'),
        ("clases: [a, b]", "clases", "did you mean classes?"),
        ("classes: [a, {nam: b}]", "classes.1.nam", "did you mean name?"),
        (
            "classes: [a, b]\nretrieval: {k_per_promt: 5}",
            "retrieval.k_per_promt",
            "did you mean k_per_prompt?",
        ),
        ("classes: [a, b]\nk_per_prompt: 5", "k_per_prompt", "under `retrieval`"),
        ("classes: [a, b]\nretrieval: {title: 5}", "retrieval.title", "top of the file"),
        (
            "classes: [a, b]\nretrieval: {k_per_prompt: yes}",
            "retrieval.k_per_prompt",
            "a whole number (found yes)",
        ),
        ("classes: [a, b]\nretrieval: 5", "retrieval", "fields such as `modes`"),
        (
            "classes: [a, b]\ncustomization: {interpolation: heldout}",
            "customization.interpolation",
            "mean held-out?",
        ),
        (
            "classes: [a, b]\nevaluation: {name: a, kind: foldr, path: b}",
            "evaluation.kind",
            "did you mean folder?",
        ),
    ],
)
def test_one_line_says_the_field_its_line_and_what_to_write(
    tmp_path: Path, text: str, field: str, token: str
) -> None:
    (line,) = faults(tmp_path, "birds.yaml", text)
    assert line.startswith(f"{field}: ") and token in line
    assert line.endswith(f"(line {len(text.splitlines())})")


@pytest.mark.parametrize(
    ("text", "name", "token"),
    [
        (
            "classes: [a, b]\nclasses: [c, d]",
            "birds.yaml",
            "line 2: `classes` is repeated (first in line 1)",
        ),
        (
            "classes:\n- a\n- name: b\n  id: c\n  name: d",
            "birds.yaml",
            "line 5: `name` is repeated",
        ),
        ("classes: [a, {name: b, name: c}]", "birds.yaml", "`name` is repeated"),
        (
            "corpus: {kind: demo}\nencoder: {model: demo}\ncorpus: {kind: demo}",
            "pipeline.yaml",
            "`corpus` is repeated",
        ),
        (
            "corpus: {kind: demo, 'kind': demo}\nencoder: {model: demo}",
            "pipeline.yaml",
            "`kind` is repeated",
        ),
    ],
)
def test_a_repeated_key_is_refused(tmp_path: Path, text: str, name: str, token: str) -> None:
    (line,) = faults(tmp_path, name, text)
    assert token in line


def test_the_package_has_one_reader_of_yaml() -> None:
    root = Path(react_pipeline.__file__).parent
    readers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr.removesuffix("_all")) in {("yaml", name) for name in READS}
    }
    assert readers == {"settings/yaml_files.py"}


READS = ("load", "safe_load", "full_load", "unsafe_load", "compose", "parse", "scan")
