"""FAULTS 27 and 30: what MLflow shows of a training that failed or was killed, and of its retry."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.tracking import runs_of

from react_pipeline.extensions.live_runs.live import LiveRun
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.store.errors import TrainingError
from react_pipeline.tracking.log import Tracking

INPUTS = Inputs("customized_checkpoint", "shapes/full", {"method": "full", "steps": 8}, {}, "1")


def record(step: int, try_number: int) -> dict[str, float]:
    return {
        "step": step,
        "time_ms": 1_000 * try_number + step,
        "loss": 1 / (1 + step),
        "learning_rate": 1e-3,
    }


def the_run(tracking: Tracking) -> Any:
    (run,) = runs_of(tracking, fingerprint=INPUTS.fingerprint)
    return run


def steps_of(tracking: Tracking, name: str = "training/loss") -> list[int]:
    return [
        point.step
        for point in MlflowClient(tracking.uri).get_metric_history(
            the_run(tracking).info.run_id, name
        )
    ]


def publish(project: Project, records: list[dict[str, float]]) -> Artifact:
    def write(directory: Path, _: object) -> dict[str, Any]:
        (directory / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in records)
        )
        return {"final_loss": records[-1]["loss"]}

    return project.store.build(INPUTS, write)


def test_a_failed_training_has_a_run_with_reason_and_losses(
    tracking: Tracking,
) -> None:  # 27
    with LiveRun(tracking) as live:
        live.started(INPUTS, 0)
        for step in range(5):
            live.stepped(record(step, 1))
        live.stepped({**record(5, 1), "loss": float("nan")})
        live.failed(TrainingError("the loss is nan at step 5; lower learning_rate"))
    run = the_run(tracking)
    assert run.info.status == "FAILED" and run.info.end_time
    for tag in ("error", "mlflow.note.content"):
        assert run.data.tags[tag] == "the loss is nan at step 5; lower learning_rate"
    assert run.data.tags["error.type"] == "TrainingError"
    assert steps_of(tracking) == [0, 1, 2, 3, 4]
    assert not MlflowClient(tracking.uri).search_registered_models()


def test_a_retried_training_finishes_without_a_double_row(  # 27
    tracking: Tracking, tiny_project: Project
) -> None:
    with pytest.raises(OSError, match="gone"), LiveRun(tracking) as live:
        live.started(INPUTS, 0)
        for step in range(6):
            live.stepped(record(step, 1))
        raise OSError("the disk is gone")
    assert the_run(tracking).info.status == "FAILED"

    with LiveRun(tracking) as retry:
        retry.started(INPUTS, 4)
        for step in range(4, 8):
            retry.stepped(record(step, 2))
    run = the_run(tracking)
    assert run.info.status == "RUNNING"
    assert not {"error", "error.type"} & set(run.data.tags)
    assert "gone" not in run.data.tags["mlflow.note.content"]

    lines = [*(record(step, 1) for step in range(4)), *(record(step, 2) for step in range(4, 8))]
    assert tracking.log_artifact(tiny_project, publish(tiny_project, lines)) == run.info.run_id
    assert the_run(tracking).info.status == "FINISHED"
    for name in ("training/loss", "training/learning_rate"):
        assert sorted(steps_of(tracking, name)) == list(range(8))


KILLED = """
import os, signal, sys, time
from mlflow import MlflowClient
from react_pipeline.store.artifacts import Inputs
from react_pipeline.extensions.live_runs.live import LiveRun
from react_pipeline.tracking.runs import Runs
live = LiveRun(Runs(sys.argv[1], "tiny"), flush_seconds=0.05)
live.started(Inputs("customized_checkpoint", "shapes/full", {"method": "full", "steps": 8}, {}, "1"), 0)
for step in range(3):
    live.stepped({"step": step, "time_ms": 1000 + step, "loss": 1 / (1 + step), "learning_rate": 1e-3})
client = MlflowClient(sys.argv[1])
while not live.run_id or len(client.get_metric_history(live.run_id, "training/loss")) < 3:
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_training_stays_open_and_its_retry_resumes(
    tracking: Tracking,
) -> None:  # 30
    done = subprocess.run([sys.executable, "-c", KILLED, tracking.uri], timeout=900)
    assert done.returncode == -signal.SIGKILL
    left = the_run(tracking)
    assert left.info.status == "RUNNING"
    with LiveRun(tracking) as retry:
        retry.started(INPUTS, 2)
        for step in (2, 3):
            retry.stepped(record(step, 2))
    assert retry.run_id == left.info.run_id
    assert sorted(steps_of(tracking)) == [0, 1, 2, 3]


def test_a_killed_training_is_closed_and_a_running_one_finishes(  # 30
    tracking: Tracking, tiny_project: Project
) -> None:
    killed, running = (
        replace(INPUTS, config={"method": "full", "steps": steps}) for steps in (9, 10)
    )
    for inputs in (killed, running):
        live = LiveRun(tracking)
        live.started(inputs, 0)
        live.close()  # its thread has opened the run, which stays RUNNING
    tracking.log_artifact(tiny_project, publish(tiny_project, [record(0, 1)]))
    later = tiny_project.store.build(running, lambda *_: {})
    tracking.log_artifact(tiny_project, later)

    def status(inputs: Inputs) -> str:
        (run,) = runs_of(tracking, fingerprint=inputs.fingerprint)
        return str(run.info.status)

    assert (status(killed), status(running)) == ("KILLED", "FINISHED")
