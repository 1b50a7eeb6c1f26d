"""The Dagster home is whole before anything runs over it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
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


def test_runs_wait_in_the_queue_while_the_code_server_restarts(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        queue = instance.get_concurrency_config().run_queue_config
    assert queue.max_user_code_failure_retries * queue.user_code_failure_retry_delay == 600
    assert queue.max_concurrent_runs == 4, "of `concurrency`, which the coordinator keeps"


def test_without_a_name_the_home_is_beside_pipeline_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        if value is not None:
            monkeypatch.setenv("DAGSTER_HOME", value)
        assert locate_home(Path("/project")) == Path("/project/dagster_home")


def test_a_home_that_cannot_be_made_takes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(InputError, match="DAGSTER_HOME .*Not a directory"):
        prepare_home(Path("elsewhere"))


def test_addresses_of_a_killed_ui_are_not_reported(tmp_path: Path) -> None:
    (tmp_path / "ui.lock").write_text(
        json.dumps({"addresses": {"dagster": "http://127.0.0.1:3000"}})
    )
    assert ui_addresses(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "not JSON", "[]", '{"addresses": 3}'])
def test_a_lock_file_that_says_nothing_is_no_address(tmp_path: Path, content: str) -> None:
    (tmp_path / "ui.lock").write_text(content)
    assert ui_addresses(tmp_path) == {}
