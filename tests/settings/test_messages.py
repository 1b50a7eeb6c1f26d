"""What a user reads of a wrong file: for each field its line and what is wrong there."""

from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.settings.files import load_domain
from react_pipeline.store.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "field", "token"),
    [
        ("classes: robin", "classes", "list (found 'robin')"),
        ('classes: [a, ""]', "classes.1", "at least 1 character"),
        ("classes: [cat, {name: dog, synonyms: [Cat]}]", "classes", "'Cat' occurs twice"),
        ("classes: [a, b]\ntemplates: []", "templates", "at least 1 item"),
        ("classes: [a, b]\ntemplates: [a photo]", "templates.0", "needs {} exactly once"),
        ("classes: [a, b]\ncustomization: {steps: -1}", "customization.steps", "greater than 0"),
        (
            "classes: [a, b]\nevaluation: {name: x, kind: folder}",
            "evaluation.path",
            "Field required",
        ),
        ("classes:", "classes", "found nothing"),
        ('classes: [wren, "\\u200b\\u2060"]', "classes.1", "nothing that can be seen"),
        ('classes: [wren, "a\\u202eb"]', "classes.1", "control"),
        ('classes: [wren, "wr\\u200ben"]', "classes", "occurs twice"),
        ("classes: [wren, '=1+2']", "classes.1", "formula"),
        ('classes: [wren, "-2|cmd!A1"]', "classes.1", "formula"),
        ("classes: [a, b]\ntemplates: imagnet", "templates", "'imagenet' or 'simple' (found"),
        ("classes: [a, b]\nk_per_prompt: 5", "k_per_prompt", "another section"),
        (
            "classes: [a, b]\nretrieval: {k_per_promt: 5}",
            "retrieval.k_per_promt",
            "mean k_per_prompt?",
        ),
        (
            "classes: [a, b]\nretrieval: {k_per_prompt: yes}",
            "retrieval.k_per_prompt",
            "integer, unable to parse string as an integer (found 'yes')",
        ),
        (
            "classes: [a, b]\nretrieval: {min_similarity: {t2t: .nan}}",
            "retrieval.min_similarity.t2t",
            "valid number",
        ),
        (
            "classes: [a, b]\nevaluation: {name: a, kind: foldr, path: b}",
            "evaluation",
            "did you mean folder?",
        ),
        (
            "classes: [a, b]\nclasses: [c, d]",
            "",
            "`classes` is repeated (first in line 1)",
        ),
        ("classes:\n- a\n- name: b\n  id: c\n  name: d", "", "`name` is repeated"),
    ],
)
def test_one_line_says_the_field_its_line_and_what_to_write(
    tmp_path: Path, text: str, field: str, token: str
) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_domain(path)
    (line,) = str(error.value).splitlines()
    place = f"{path}:{len(text.splitlines())}: "
    assert line.startswith(place + (field and f"{field}: ")) and token in line


@pytest.mark.parametrize("name", ["no", "007", "1e3", "2024-01-01"])
def test_a_name_is_what_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(f"classes: [wren, {name}, {{name: '{name} b'}}]\ntitle: {name}\n")
    domain = load_domain(path)
    assert domain.class_names == ["wren", name, f"{name} b"] and domain.title == name
