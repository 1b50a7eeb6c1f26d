"""The Dagster home is whole before anything runs over it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import dagster as dg
import pytest

from react_pipeline.project.template import (
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


def test_runs_wait_in_the_queue_while_the_code_server_restarts(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        queue = instance.get_concurrency_config().run_queue_config
    assert queue.max_user_code_failure_retries * queue.user_code_failure_retry_delay == 600
    assert queue.max_concurrent_runs == 4, "of `concurrency`, which the coordinator keeps"


def test_without_a_name_the_home_is_beside_pipeline_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert locate_home(Path("/project")) == Path("/project/dagster_home")


def test_a_home_that_cannot_be_made_or_written_takes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(InputError, match="DAGSTER_HOME .*Not a directory"):
        prepare_home(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME")
    prepare_home(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=str(tmp_path / "dagster_home")):
        prepare_home(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "not JSON", "[]", '{"addresses": {"dagster": "http://a"}}']
)
def test_a_ui_that_was_killed_or_says_nothing_has_no_address(tmp_path: Path, content: str) -> None:
    (tmp_path / "ui.lock").write_text(content)
    assert ui_addresses(tmp_path) == {}
