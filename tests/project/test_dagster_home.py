"""The Dagster home is whole before anything runs over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.project.dagster_home import (
    locate_home,
    prepare_home,
    ui_addresses,
)
from react_pipeline.store.errors import InputError

REPOSITORY = Path(__file__).parents[2]


def test_a_relative_home_becomes_absolute_with_our_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", "new/home")
    assert prepare_home(Path("elsewhere")) == tmp_path / "new" / "home"
    settings = tmp_path / "new" / "home" / "dagster.yaml"
    assert settings.read_text() == (REPOSITORY / "dagster_home" / "dagster.yaml").read_text()
    settings.write_text("telemetry: {enabled: false}")
    prepare_home(Path("elsewhere"))
    assert settings.read_text() == "telemetry: {enabled: false}"  # a home's own settings stay


def test_without_a_name_the_home_is_beside_pipeline_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert locate_home(Path("/project")) == Path("/project/dagster_home")
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert locate_home(Path("/project")) == Path("/project/dagster_home")


def test_a_home_that_cannot_be_made_takes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(InputError, match="DAGSTER_HOME .*Not a directory"):
        prepare_home(Path("elsewhere"))


@pytest.mark.parametrize(
    "content", ["", "not JSON", "[]", '{"addresses": {"dagster": "http://a"}}']
)
def test_a_ui_that_was_killed_or_says_nothing_has_no_address(tmp_path: Path, content: str) -> None:
    (tmp_path / "ui.lock").write_text(content)
    assert ui_addresses(tmp_path) == {}
