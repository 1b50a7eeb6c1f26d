"""FAULTS 21 to 23: domain files that are wrong, hostile, or badly named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from react_pipeline.settings.config import SLUG_RULE
from react_pipeline.settings.files import MAX_YAML_BYTES, load_domain
from react_pipeline.store.errors import ConfigError

GOOD = {"classes": ["cat", "dog"]}


def reported(path: Path, value: object) -> str:
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    with pytest.raises(ConfigError) as error:
        load_domain(path)
    return str(error.value)


def test_all_faults_of_a_domain_are_listed_with_their_fields(tmp_path: Path) -> None:  # 21
    raw = {
        "classes": ["cat", {"name": "dog", "synonyms": ["Cat"]}],
        "templates": ["a photo"],
        "classnames": [],
        "retrieval": {"k_per_prompt": "many"},
    }
    text = reported(tmp_path / "pets.yaml", raw)
    for words in ("classes: 'Cat' occurs twice", "templates: 'a photo': needs {}", "classnames: unknown field"):
        assert words in text
    assert "retrieval.k_per_prompt" in text
    assert all(str(tmp_path / "pets.yaml") in line for line in text.splitlines())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": []}, "classes"),
        ({"classes": "cat"}, "classes"),
        ({"classes": [""]}, "classes.0.name"),
        ({"templates": []}, "the list is empty"),
        ({"templates": ["{} and {}"]}, "exactly once"),
        ({"customization": {"steps": -1}}, "customization.steps"),
        ({"evaluation": {"name": "x", "kind": "folder"}}, "`path` belongs"),
    ],
)
def test_wrong_values_are_reported_by_field(tmp_path: Path, change: dict[str, object], words: str) -> None:  # 21
    assert words in reported(tmp_path / "pets.yaml", {**GOOD, **change})


BOMB = "a: &a [x,x,x,x]\n" + "\n".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes: !!python/object/apply:os.system ['touch owned']", "not valid YAML"),
        (BOMB, "aliases"),
        ("- a list", "must be a mapping"),
        ("classes: [cat\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("", "must be a mapping"),
        ("classes: [cat]\n" + "#" * MAX_YAML_BYTES, "larger than"),
    ],
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:  # 22
    monkeypatch.chdir(tmp_path)
    assert words in reported(tmp_path / "pets.yaml", text)
    assert not (tmp_path / "owned").exists()


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:  # 22
    (tmp_path / "pets.yaml").write_bytes(b"\xff\xfe\x00classes")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_domain(tmp_path / "pets.yaml")


@pytest.mark.parametrize("slug", ["..", "a/b", "with space", "Grün", "Pets", "-x", "a" * 64, ""])
def test_slugs_that_are_no_safe_names_are_refused(tmp_path: Path, slug: str) -> None:  # 23
    assert SLUG_RULE in reported(tmp_path / "pets.yaml", {**GOOD, "slug": slug})


def test_the_slug_must_be_the_name_of_the_file(tmp_path: Path) -> None:  # 23
    assert "dogs.yaml" in reported(tmp_path / "pets.yaml", {**GOOD, "slug": "dogs"})
