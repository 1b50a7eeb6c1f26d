"""FAULTS 28 to 30 at once, under the real daemon: MLflow is stopped while a training runs, which is
then killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import dagster as dg
import pytest
from conftest import PIPELINE
from mlflow import MlflowClient
from support.automation import hurry, process_of, running_daemon, training_under_way, wait_for
from support.launch import dagster_home
from support.services import free_port, mlflow_server
from support.tracking import runs_of

from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.tracking.log import Tracking

STEPS, STATE_STEPS = 5_000, 50


@pytest.mark.slow
def test_mlflow_stopped_in_a_killed_training_shows_steps_once(  # 28, 29, 30
    make_project: Callable[..., Project],
    _indexed_store: Path,
    mlflow_database: Path,
    tmp_path: Path,
) -> None:
    port, database = free_port(), shutil.copy(mlflow_database, tmp_path / "server.db")
    address = f"http://127.0.0.1:{port}"
    defaults = {
        **PIPELINE["customization"]["defaults"],
        "steps": STEPS,
        "checkpoint_every": STATE_STEPS,
    }
    project = make_project(
        tracking_uri=address,
        methods=["gated-image"],
        automation={"enabled": True, "interval_seconds": 2},
        customization={"defaults": defaults},
    )
    shutil.copytree(_indexed_store, project.config.store)
    (project.config.domains / "colours.yaml").unlink()
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    tracking, key = Tracking.of(project), "shapes/gated-image"

    def mlflow() -> AbstractContextManager[Popen[bytes]]:
        return mlflow_server(f"sqlite:///{database}", tmp_path, port)

    def losses() -> list[int]:
        found = runs_of(tracking, asset="customized_checkpoint")
        history = MlflowClient(address).get_metric_history
        return [point.step for run in found for point in history(run.info.run_id, "training/loss")]

    def states() -> set[str]:
        return {path.name for path in (project.config.store / ".staging").rglob("step-*.json")}

    with dagster_home(tmp_path / "home") as home:
        hurry(home)
        with running_daemon(project, home) as log:
            with mlflow() as server:
                wait_for(losses, 150, "a training that is seen in MLflow", log)
                (left,) = runs_of(tracking, asset="customized_checkpoint")
                os.killpg(
                    server.pid, signal.SIGKILL
                )  # reported to end it takes longer than the training
                server.wait()
            seen = states()
            wait_for(lambda: states() - seen, 60, "a training that goes on without MLflow", log)
            with dg.DagsterInstance.from_config(str(home)) as instance:
                killed = training_under_way(instance, "gated-image")
                assert killed is not None, "still training"
                os.kill(process_of(instance, killed), signal.SIGKILL)
                with mlflow():
                    wait_for(
                        lambda: key in project.store.keys("customized_checkpoint"),
                        180,
                        "a second try",
                        log,
                    )
                    wait_for(
                        lambda: _state(tracking) == ["FINISHED"],
                        60,
                        "a finished run in MLflow",
                        log,
                    )
                    shown = losses()
                    (run,) = runs_of(tracking, asset="customized_checkpoint")
                    again = instance.get_runs(
                        dg.RunsFilter(tags={"dagster/parent_run_id": killed.run_id})
                    )
    assert [entry.tags["dagster/retry_number"] for entry in again] == ["1"]
    assert run.info.run_id == left.info.run_id, "the second try goes on in the run of the first"
    lines = (
        project.store.current("customized_checkpoint", key)
        .file("metrics.jsonl")
        .read_text()
        .splitlines()
    )
    assert [json.loads(line)["step"] for line in lines] == list(range(STEPS))
    # MLflow gets every tenth step behind the first thousand.
    assert sorted(shown) == [*range(1_000), *range(1_000, STEPS, 10)]


def _state(tracking: Tracking) -> list[str]:
    return [run.info.status for run in runs_of(tracking, asset="customized_checkpoint")]
