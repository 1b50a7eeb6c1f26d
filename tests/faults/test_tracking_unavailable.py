"""FAULTS 29: MLflow down, silent, overloaded or locked costs seconds and never a result."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine, event
from support.launch import dagster_home
from support.services import command
from support.sick_servers import sick_server
from support.tracking import artifact_of, runs_of, tracking_at

from react_pipeline.assets.launch import materialize
from react_pipeline.extensions.plan.diagnosis import diagnose
from react_pipeline.project import Project
from react_pipeline.tracking import Tracking, log

DOWN = "http://127.0.0.1:9"
PLACES = ("corpus", "all"), ("retrieved_set", "shapes"), ("control_set", "shapes")


def test_a_server_that_is_down_is_not_asked_again_at_once(  # 29
    tracking: Tracking, tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (artifact_of(tiny_project, *place) for place in PLACES[1:])
    for reported in (True, False):
        assert tracking_at(tiny_project, DOWN).log_artifact(first, "dagster-1") is None
        assert ("unavailable" in caplog.text) == reported
        caplog.clear()
    assert tracking.log_artifact(second)
    (run,) = runs_of(tracking, fingerprint=first.fingerprint)
    assert run.info.status == "FINISHED"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that failed is asked again at once."""
    monkeypatch.setattr(log, "COOLDOWN_SECONDS", 0.0)


hurry = pytest.mark.usefixtures("hurried")


@pytest.fixture
def impatient() -> Iterator[None]:
    """MLflow lets SQLite wait 20 seconds for a lock; here a tenth of one."""

    def hurry(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), parameters

    event.listen(Engine, "before_cursor_execute", hurry, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", hurry)


@hurry
@pytest.mark.parametrize(
    ("harm", "remedy", "said"),
    [
        ("BEGIN EXCLUSIVE", "ROLLBACK", "locked"),
        (
            "UPDATE alembic_version SET version_num = 'x' || version_num",
            "UPDATE alembic_version SET version_num = substr(version_num, 2)",
            "mlflow db upgrade",
        ),
    ],
)
def test_a_database_that_is_locked_or_of_another_mlflow_loses_and_doubles_nothing(  # 29, 33
    tracking: Tracking,
    tiny_project: Project,
    tmp_path: Path,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
    harm: str,
    remedy: str,
    said: str,
) -> None:
    artifact = artifact_of(tiny_project, "retrieved_set", "shapes")
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        database.execute(harm)
        assert tracking.log_artifact(artifact) is None
        database.execute(remedy)
    assert said in caplog.text
    assert tracking.sync() == {artifact.fingerprint}
    assert len(runs_of(tracking, fingerprint=artifact.fingerprint)) == 1


def test_artifacts_that_cannot_be_logged_hold_up_no_other(  # 29
    tracking: Tracking,
    tiny_project: Project,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus, retrieved, control = artifacts = [artifact_of(tiny_project, *at) for at in PLACES]
    write = MlflowClient.log_artifact

    def refusing(client: MlflowClient, run_id: str, path: str, *folder: Any) -> None:
        if {"corpus", "retrieved_set"} & {*Path(path).parts}:
            raise MlflowException("it is refused")
        write(client, run_id, path, *folder)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refusing)
        assert tracking.sync() == {control.fingerprint}
        assert tracking.log_artifact(retrieved) is None
        assert tracking.log_artifact(control)
    for place in ("corpus/all", "retrieved_set/shapes"):
        assert place in caplog.text
    assert "unavailable" not in caplog.text
    assert tracking.sync() == {artifact.fingerprint for artifact in artifacts}


@hurry
def test_a_sync_ends_at_a_server_that_fails_meanwhile(  # 29
    tracking: Tracking,
    tiny_project: Project,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in PLACES:
        artifact_of(tiny_project, *place)
    asked: list[str] = []

    def failing(_client: MlflowClient, run_id: str, *_: object) -> None:
        asked.append(run_id)
        raise MlflowException("the disk is full")

    tracking.connect()
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", failing)
        patch.setattr(MlflowClient, "set_experiment_tag", failing)
        assert tracking.sync() is None
    assert "unavailable" in caplog.text and len(asked) == 2
    assert len(tracking.sync() or ()) == 3


def test_a_damaged_artifact_is_not_logged(tracking: Tracking, tiny_project: Project) -> None:
    damaged = artifact_of(tiny_project, "corpus", "all")
    damaged.file("table.csv").write_text("changed")
    assert tracking.sync() == set()


def test_two_hosts_that_log_at_once_make_one_run(
    tracking: Tracking, tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the look and the creation of one, the other does all of it, without its lock.
    artifact = artifact_of(tiny_project, "customized_checkpoint", "shapes/full")
    monkeypatch.setattr(type(tiny_project.store), "locked", lambda *_: nullcontext(True))
    create = MlflowClient.create_run
    other: list[str | None] = []

    def create_late(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
        if not other:
            other.append(None)
            other[0] = Tracking(tiny_project).log_artifact(artifact)
        return create(client, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", create_late)
    assert tracking.log_artifact(artifact) == other[0]
    client = MlflowClient(tracking.uri)
    for tags in ({"fingerprint": artifact.fingerprint}, {"react.parent": "shapes"}):
        (run,) = runs_of(tracking, **tags)
        assert run.info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'react-shapes'")) == 1
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    # A server that was late made one more, of which nobody knows.
    tags = {"asset": artifact.stage, "fingerprint": artifact.fingerprint}
    client.create_run(run.info.experiment_id, tags=tags)
    assert tracking.log_artifact(artifact) == other[0]
    (left,) = runs_of(tracking, fingerprint=artifact.fingerprint)
    assert left.info.run_id == other[0]


REASONS = {"silent": "timeout", "overloaded": "503", "looping": "307", "down": "refused"}
HANG_SECONDS = 600


@hurry
@pytest.mark.parametrize("kind", REASONS)
def test_a_sick_server_holds_nobody_up_and_loses_nothing(
    kind: str,
    tracking: Tracking,
    tiny_project: Project,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The others answer, on a busy machine late.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if kind == "silent" else "300")
    stages = (("corpus", "all"), ("retrieved_set", "shapes"))
    artifacts = [artifact_of(tiny_project, *stage) for stage in stages]

    def use(uri: str) -> list[object]:
        sick = tracking_at(tiny_project, uri)
        logged = [sick.log_artifact(artifact) for artifact in artifacts]
        return [sick.sync(), *logged, sick.results_page("address")]

    with ThreadPoolExecutor(1) as pool, sick_server(kind) as uri:
        answers = pool.submit(use, uri).result(HANG_SECONDS)
    assert answers == [None, None, None, "address"]
    assert REASONS[kind] in caplog.text
    assert tracking.sync() == {artifact.fingerprint for artifact in artifacts}


# The commands wait a minute or two; the tests above see every kind within one process.
@pytest.mark.slow
@pytest.mark.operations
def test_commands_end_beside_a_silent_server(
    tiny_project: Project, mlflow_database: Path, tmp_path: Path
) -> None:
    methods = ("base", "gated-image")
    with dagster_home(tmp_path / "home"), sick_server("silent") as uri:
        environment = {**os.environ, "REACT_TRACKING_URI": uri}
        environment.pop("MLFLOW_HTTP_REQUEST_TIMEOUT", None)

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 1_800}
            return subprocess.run(command(tiny_project, *words), env=environment, **options)

        chosen = [word for method in methods for word in ("--method", method)]
        built = run("materialize", "--domain", "shapes", *chosen)
        assert built.returncode == 0, built.stderr
        assert built.stderr.count("is unavailable") <= 4 and "Traceback" not in built.stderr
        assert run("models", "list").returncode == 0
        assert "gated-image" in run("results").stdout
    shutil.copy(mlflow_database, tmp_path)
    with dagster_home(tmp_path / "home"):
        assert not materialize("*", ["shapes"], methods, tiny_project.path).built
    tracking = Tracking(tiny_project)
    for stage in ("corpus", "retrieved_set", "customized_checkpoint", "comparison"):
        assert {run.info.status for run in runs_of(tracking, asset=stage)} == {"FINISHED"}


@pytest.mark.parametrize("kind", ["dripping_body", "endless_body", "silent"])
def test_doctor_reports_a_sick_server(
    kind: str, tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.plan.diagnosis.SERVER_TIMEOUT_SECONDS", 0.5)
    with ThreadPoolExecutor(1) as pool, sick_server(kind) as uri:
        monkeypatch.setenv("REACT_TRACKING_URI", uri)
        found = pool.submit(diagnose, tiny_project.path).result(HANG_SECONDS)
    assert [entry.state for entry in found if entry.what == "tracking"] == ["note"]
