"""FAULTS 29 and 30: MLflow down, slow or locked, and runs that a killed process left open."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_project
from mlflow import MlflowClient
from sqlalchemy import Engine, event
from support.results import publish_results
from support.tracking import STEPS, artifact_of, runs_of

from react_pipeline.evaluation.comparison import compare
from react_pipeline.extensions.dashboard.overview import overview
from react_pipeline.project.project import Project
from react_pipeline.tracking import queue
from react_pipeline.tracking.log import Tracking
from react_pipeline.tracking.queue import PENDING
from react_pipeline.tracking.runs import Runs

DOWN = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def forgotten_failures() -> None:
    """Other tests of this process may have met a server that was down; it is left alone for a while
    then.
    """
    queue._unreachable_until.clear()


def test_a_server_that_is_down_costs_no_result(  # 29
    tracking: Tracking, tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    first = artifact_of(tiny_project, "retrieved_set", "shapes")
    assert Tracking(Runs(DOWN, "tiny")).log_artifact(tiny_project, first, "dagster-1") is None
    assert "unavailable" in caplog.text
    assert tracking.count_pending(tiny_project) == 1
    assert tiny_project.store.current("retrieved_set", "shapes") == first

    second = artifact_of(tiny_project, "control_set", "shapes")
    assert tracking.log_artifact(tiny_project, second)
    assert tracking.count_pending(tiny_project) == 0
    (run,) = runs_of(tracking, fingerprint=first.fingerprint)
    assert run.data.tags["dagster.run_id"] == "dagster-1"


def test_server_that_failed_is_not_asked_again_at_once(  # 29
    tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = Tracking(Runs("http://127.0.0.1:19", "tiny"))
    artifact = artifact_of(tiny_project, "retrieved_set", "shapes")
    tracking.log_artifact(tiny_project, artifact)
    caplog.clear()
    assert tracking.log_artifact(tiny_project, artifact) is None
    assert not caplog.text
    tracking.apply(tiny_project, patient=True)
    assert "unavailable" in caplog.text


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
    tracking.log_artifact(tiny_project, known)
    artifact = artifact_of(tiny_project, "retrieved_set", "shapes")
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    assert tracking.log_artifact(tiny_project, artifact) is None
    lock.execute("ROLLBACK")
    lock.close()
    runs = tracking.apply(tiny_project, patient=True).runs
    assert len(runs) == 1
    assert [run.info.run_id for run in runs_of(tracking, fingerprint=artifact.fingerprint)] == list(
        runs.values()
    )


def test_an_entry_that_cannot_be_logged_holds_up_no_other(  # 29
    tracking: Tracking, tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    pending = tiny_project.store.root / PENDING
    pending.mkdir(parents=True)
    (pending / "broken.json").write_text("not JSON")
    for stage, key in (("corpus", "all"), ("retrieved_set", "shapes"), ("control_set", "shapes")):
        caplog.clear()
        assert tracking.log_artifact(tiny_project, artifact_of(tiny_project, stage, key))
        assert "broken could not be logged" in caplog.text and "unavailable" not in caplog.text
    assert [path.name for path in pending.iterdir()] == ["broken.json"]


def test_two_failures_in_a_row_put_a_server_last(  # 29
    tracking: Tracking, tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    pending = tiny_project.store.root / PENDING
    pending.mkdir(parents=True)
    for number in range(2):
        (pending / f"broken-{number}.json").write_text("not JSON")
    assert tracking.log_artifact(tiny_project, artifact_of(tiny_project, "corpus", "all")) is None
    assert "unavailable" in caplog.text
    assert len(tracking.apply(tiny_project, patient=True).runs) == 1
    assert sorted(path.name for path in pending.iterdir()) == ["broken-0.json", "broken-1.json"]


def test_entry_of_a_pruned_artifact_is_dropped(tracking: Tracking, tiny_project: Project) -> None:
    pending = tiny_project.store.root / PENDING
    pending.mkdir(parents=True)
    gone = {"stage": "corpus", "key": "all", "fingerprint": "0" * 16, "dagster_run_id": ""}
    (pending / "gone.json").write_text(json.dumps(gone))
    tracking.apply(tiny_project)
    assert not list(pending.iterdir())


def test_run_left_open_by_killed_process_is_found_and_finished(
    tracking: Tracking, tiny_project: Project
) -> None:  # 30
    artifact = artifact_of(tiny_project, "customized_checkpoint", "shapes/gated-image")
    client = MlflowClient(tracking.uri)
    experiment = client.create_experiment(
        "tiny", (tiny_project.path.parent / "mlartifacts").as_uri()
    )
    tags = {"asset": artifact.stage, "fingerprint": artifact.fingerprint}
    left = client.create_run(experiment, tags=tags)
    doubled = client.create_run(experiment, tags=tags)
    client.log_metric(left.info.run_id, "training/loss", 1.0, step=0)

    run_id = tracking.log_artifact(tiny_project, artifact)
    assert run_id in {left.info.run_id, doubled.info.run_id}
    states = sorted(run.info.status for run in runs_of(tracking, fingerprint=artifact.fingerprint))
    assert states == ["FINISHED", "KILLED"]


def test_logging_killed_before_its_end_writes_no_metric_twice(
    tracking: Tracking, tiny_project: Project
) -> None:  # 30
    artifact = artifact_of(tiny_project, "customized_checkpoint", "shapes/gated-image")
    run_id = tracking.log_artifact(tiny_project, artifact)
    client = MlflowClient(tracking.uri)
    client.update_run(run_id, status="RUNNING")
    assert tracking.log_artifact(tiny_project, artifact) == run_id
    assert len(client.get_metric_history(run_id, "training/loss")) == STEPS
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'react-shapes'")) == 1


def test_mlflow_down_during_results_loses_and_doubles_nothing(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # 29
    project = write_project(tmp_path, tmp_path / "none", tmp_path / "none")
    results = publish_results(
        project, "shapes", {"base": [True, False] * 4, "gated-image": [True] * 8}
    )
    made = [results["base"], results["gated-image"], compare(project, "shapes"), overview(project)]
    for artifact in made:
        assert (
            Tracking(Runs(DOWN, "tiny")).log_artifact(
                project, artifact, f"dagster-{artifact.stage}"
            )
            is None
        )
    assert tracking.count_pending(project) == len(made)
    # The comparison comes first, as it would after its results had failed once: their runs are made
    # with it.
    for entry in (project.store.root / PENDING).glob("domain_results--*.json"):
        entry.touch()
    tracking.apply(project, patient=True)
    assert tracking.count_pending(project) == 0
    for artifact in made:
        (run,) = runs_of(tracking, fingerprint=artifact.fingerprint)
        assert run.info.status == "FINISHED"
        assert run.data.tags["dagster.run_id"] == f"dagster-{artifact.stage}"
    client = MlflowClient(tracking.uri)
    (gated,) = runs_of(tracking, fingerprint=results["gated-image"].fingerprint)
    assert [
        point.value for point in client.get_metric_history(gated.info.run_id, "delta_top1")
    ] == [0.5]
    (compared,) = runs_of(tracking, asset="comparison")
    assert "dashboard.html" in {file.path for file in client.list_artifacts(compared.info.run_id)}


def test_a_database_of_another_mlflow_is_refused_with_remedy(
    tracking: Tracking, tiny_project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # 33
    database = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    ((version,),) = database.execute("SELECT version_num FROM alembic_version").fetchall()
    database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    artifact = artifact_of(tiny_project, "retrieved_set", "shapes")
    assert tracking.log_artifact(tiny_project, artifact) is None
    assert "mlflow db upgrade" in caplog.text
    database.execute("UPDATE alembic_version SET version_num = ?", [version])
    database.close()
    assert len(tracking.apply(tiny_project, patient=True).runs) == 1
    assert len(runs_of(tracking, fingerprint=artifact.fingerprint)) == 1


@pytest.mark.slow
@pytest.mark.operations
def test_two_processes_with_a_fresh_database_log_one_run(
    tiny_project: Project, tmp_path: Path
) -> None:
    artifact = artifact_of(tiny_project, "corpus", "all")
    code = (
        "import sys; from react_pipeline.project import Project; from react_pipeline.tracking "
        "import Tracking\n"
        "project = Project.load(sys.argv[1])\n"
        "artifact = project.store.current('corpus', 'all')\n"
        "assert Tracking.of(project).log_artifact(project, artifact)\n"
    )
    command = [sys.executable, "-c", code, str(tiny_project.path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, reported = process.communicate(timeout=120)
        assert process.returncode == 0, reported.decode()
    assert len(runs_of(Tracking.of(tiny_project), fingerprint=artifact.fingerprint)) == 1
