"""What a user reads of a wrong file: for each field its line and what is wrong there."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

import react_pipeline
from react_pipeline.settings.files import load_domain, load_pipeline
from react_pipeline.store.errors import ConfigError

DOMAIN: dict[str, Any] = {"classes": ["robin", "wren"]}
PIPELINE: dict[str, Any] = {"corpus": {"kind": "demo"}, "encoder": {"model": "demo"}}


def faults(folder: Path, name: str, content: object) -> list[str]:
    """The lines of the error of a file, without its path; none if it is valid."""
    path = folder / name
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
    )
    try:
        (load_pipeline if name == "pipeline.yaml" else load_domain)(path)
    except ConfigError as error:
        return [line.removeprefix(f"{path}:") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("text", "field", "token"),
    [
        ("classes: robin", "classes", "list (found 'robin')"),
        ("classes:", "classes", "found nothing"),
        ('classes: [wren, "\\u200b\\u2060"]', "classes.1", "nothing that can be seen"),
        ('classes: [wren, "a\\u202eb"]', "classes.1", "control"),
        ('classes: [wren, "wr\\u200ben"]', "classes", "occurs twice"),
        ("classes: [wren, '=1+2']", "classes.1", "formula"),
        ('classes: [wren, "-2|cmd!A1"]', "classes.1", "formula"),
        ("classes: [a, b]\ntemplates: imagnet", "templates", "mean imagenet?"),
        ("classes: [a, b]\ntemplates: []", "templates", "at least 1 item"),
        ("classes: [a, b]\ntitel: b", "titel", "mean title?"),
        ("classes: [a, {name: b, synonym: [c]}]", "classes.1.synonym", "mean synonyms?"),
        (
            "classes: [a, b]\nretrieval: {k_per_promt: 5}",
            "retrieval.k_per_promt",
            "mean k_per_prompt?",
        ),
        ("classes: [a, b]\nk_per_prompt: 5", "k_per_prompt", "another section"),
        ("classes: [a, b]\nretrieval: {title: 5}", "retrieval.title", "another section"),
        (
            "classes: [a, b]\nretrieval: {k_per_prompt: yes}",
            "retrieval.k_per_prompt",
            "integer (found 'yes')",
        ),
        ("classes: [a, b]\nretrieval: 5", "retrieval", "mapping"),
        (
            "classes: [a, b]\ncustomization: {interpolation: heldout}",
            "customization.interpolation",
            "mean held-out?",
        ),
        (
            "classes: [a, b]\nevaluation: {name: a, kind: foldr, path: b}",
            "evaluation",
            "did you mean folder?",
        ),
    ],
)
def test_one_line_says_the_field_its_line_and_what_to_write(
    tmp_path: Path, text: str, field: str, token: str
) -> None:
    (line,) = faults(tmp_path, "birds.yaml", text)
    assert line.startswith(f"{len(text.splitlines())}: {field}: ") and token in line


@pytest.mark.parametrize(
    ("text", "name", "token"),
    [
        (
            "classes: [a, b]\nclasses: [c, d]",
            "birds.yaml",
            "2: `classes` is repeated (first in line 1)",
        ),
        (
            "classes:\n- a\n- name: b\n  id: c\n  name: d",
            "birds.yaml",
            "5: `name` is repeated",
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


@pytest.mark.parametrize("name", ["no", "007", "1e3", "2024-01-01"])
def test_a_name_is_what_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(f"classes: [wren, {name}, {{name: '{name} b'}}]\ntitle: {name}\n")
    domain = load_domain(path)
    assert domain.class_names == ["wren", name, f"{name} b"] and domain.title == name


def test_what_is_wrong_in_two_sections_is_said_at_once(tmp_path: Path) -> None:
    text = "corpus: {kind: demo}\nencoder: {model: demo}\nelevater: {sots: 5}\ndevice: gpu\n"
    first, second = faults(tmp_path, "pipeline.yaml", text)
    assert first.startswith("3: elevater.sots: ") and "shots?" in first
    assert second.startswith("4: device: ") and "'cuda'" in second


@pytest.mark.parametrize("text", ["retrieval: {fusion: rrf}", "retrieval: {refill_rounds: 3}"])
def test_what_was_removed_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    (line,) = faults(tmp_path, "birds.yaml", f"classes: [a, b]\n{text}")
    assert line.startswith("2: retrieval.") and "was removed: " in line


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
