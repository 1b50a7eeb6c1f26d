"""FAULTS 29: MLflow down, slow or locked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine, event
from support.tracking import artifact_of, runs_of, tracking_at

from react_pipeline.project import Project
from react_pipeline.tracking import Tracking, log

DOWN = "http://127.0.0.1:9"
PLACES = ("corpus", "all"), ("retrieved_set", "shapes"), ("control_set", "shapes")


def test_a_server_that_is_down_costs_no_result(  # 29
    tracking: Tracking, tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    first = artifact_of(tiny_project, "retrieved_set", "shapes")
    assert tracking_at(tiny_project, DOWN).log_artifact(first, "dagster-1") is None
    assert "unavailable" in caplog.text
    assert tiny_project.store.current("retrieved_set", "shapes") == first
    caplog.clear()
    assert tracking_at(tiny_project, DOWN).log_artifact(first) is None
    assert not caplog.text, "it is not asked again at once"

    second = artifact_of(tiny_project, "control_set", "shapes")
    assert tracking.log_artifact(second)
    (run,) = runs_of(tracking, fingerprint=first.fingerprint)
    assert run.info.status == "FINISHED"


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


def test_locked_database_delays_the_run_and_doubles_nothing(  # 29
    tracking: Tracking, tiny_project: Project, tmp_path: Path, impatient: None
) -> None:
    known = artifact_of(tiny_project, "corpus", "all")
    tracking.log_artifact(known)
    artifact = artifact_of(tiny_project, "retrieved_set", "shapes")
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    assert tracking.log_artifact(artifact) is None
    lock.execute("ROLLBACK")
    lock.close()
    log._unreachable_until.clear()
    assert tracking.sync() == {known.fingerprint, artifact.fingerprint}
    assert len(runs_of(tracking, fingerprint=artifact.fingerprint)) == 1


def refuse(monkeypatch: pytest.MonkeyPatch, *stages: str) -> None:
    """Let MLflow refuse the files of some stages."""
    write = MlflowClient.log_artifact

    def refusing(client: MlflowClient, run_id: str, path: str, *folder: Any) -> None:
        if {*stages} & {*Path(path).parts}:
            raise MlflowException("it is refused")
        write(client, run_id, path, *folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", refusing)


def test_artifacts_that_cannot_be_logged_hold_up_no_other(  # 29
    tracking: Tracking,
    tiny_project: Project,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus, retrieved, control = artifacts = [artifact_of(tiny_project, *at) for at in PLACES]
    with monkeypatch.context() as patch:
        refuse(patch, "corpus", "retrieved_set")
        assert tracking.sync() == {control.fingerprint}
        assert tracking.log_artifact(retrieved) is None
        assert tracking.log_artifact(control)
    for place in ("corpus/all", "retrieved_set/shapes"):
        assert place in caplog.text
    assert "unavailable" not in caplog.text
    assert tracking.sync() == {artifact.fingerprint for artifact in artifacts}


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
    log._unreachable_until.clear()
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


def test_a_database_of_another_mlflow_is_refused_with_remedy(
    tracking: Tracking, tiny_project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # 33
    database = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    ((version,),) = database.execute("SELECT version_num FROM alembic_version").fetchall()
    database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    artifact = artifact_of(tiny_project, "retrieved_set", "shapes")
    assert tracking.log_artifact(artifact) is None
    assert "mlflow db upgrade" in caplog.text
    database.execute("UPDATE alembic_version SET version_num = ?", [version])
    database.close()
    log._unreachable_until.clear()
    assert tracking.sync() == {artifact.fingerprint}
    assert len(runs_of(tracking, fingerprint=artifact.fingerprint)) == 1
