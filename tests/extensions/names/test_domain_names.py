"""`domains names`: the counts, and which name is the most frequent."""

from __future__ import annotations

import pytest
import yaml

from react_pipeline.commands.cli import main
from react_pipeline.project.project import Project


def test_a_more_frequent_synonym_is_named(
    indexed_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = indexed_project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    domain["classes"][0] = {"name": "disc", "synonyms": ["circle"]}
    path.write_text(yaml.safe_dump(domain))
    with pytest.raises(SystemExit) as stop:
        main(["domains", "names", "shapes", "--config", str(indexed_project.path)])
    shown = capsys.readouterr().out.splitlines()
    assert not stop.value.code and shown[-1] == "disc: circle is more frequent"
    assert shown[0].split() == ["class", "name", "captions"]
