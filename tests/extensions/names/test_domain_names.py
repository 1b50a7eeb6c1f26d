"""`domains names`: the counts, and a more frequent name put first."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from react_pipeline.commands.cli import main
from react_pipeline.extensions.names.commands import put_first
from react_pipeline.project.project import Project
from react_pipeline.settings.files import load_domain
from react_pipeline.store.errors import InputError

FILE = """\
# Birds of Kraków
classes:
  - {name: blackbird, synonyms: ["a, b", Turdus merula], seeds: [1.jpg]}  # common
  - robin
  - name: "crane"
    synonyms:
      - 'yes'   # not a boolean
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "birds.yaml"
    path.write_bytes(FILE.replace("\n", "\r\n").encode())
    return path


def call(project: Project, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["domains", "names", *arguments, "--config", str(project.path)])
    assert not stop.value.code
    return capsys.readouterr().out


def test_a_more_frequent_synonym_is_put_first_on_request(
    indexed_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = indexed_project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    domain["classes"][0] = {"name": "disc", "synonyms": ["circle"]}
    path.write_text(before := yaml.safe_dump(domain))
    others = indexed_project.domain("shapes").class_names[1:]
    assert "--write" in call(indexed_project, capsys, "shapes") and path.read_text() == before
    assert "disc: circle is more frequent" in call(indexed_project, capsys, "shapes", "--write")
    assert indexed_project.domain("shapes").class_names == ["circle", *others]
    assert indexed_project.domain("shapes").classes[0].synonyms == ("disc",)
    written = path.read_text()
    assert "frequent" not in call(indexed_project, capsys, "shapes", "--write")
    assert path.read_text() == written


def test_names_are_swapped_and_all_else_in_the_file_stays(file: Path) -> None:
    put_first(file, {0: "a, b", 2: "yes"})
    domain = load_domain(file)
    assert domain.class_names == ["a, b", "robin", "yes"]
    assert [entry.synonyms for entry in domain.classes] == [
        ("blackbird", "Turdus merula"),
        (),
        ("crane",),
    ]
    text = file.read_bytes().decode()
    assert (
        "# Birds of Kraków\r\n" in text
        and "seeds: [1.jpg]}  # common\r\n" in text
        and "# not a boolean" in text
    )
    put_first(file, {0: "blackbird", 2: "crane"})
    assert load_domain(file).class_names == ["blackbird", "robin", "crane"]


def test_a_text_that_cannot_be_swapped_is_left_alone(file: Path) -> None:
    file.write_text("classes:\n  - name: |\n      crane\n    synonyms: [stork]\ntitle: t\n")
    before = file.read_text()
    with pytest.raises(InputError, match="by hand"):
        put_first(file, {0: "stork"})
    assert file.read_text() == before
