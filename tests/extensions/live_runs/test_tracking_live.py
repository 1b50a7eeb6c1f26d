from __future__ import annotations

import json
import sys
import threading
import time
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
from react_pipeline.tracking.runs import Runs

KEY = "shapes/gated-image"
INPUTS = Inputs(
    "customized_checkpoint",
    KEY,
    {"method": "gated-image", "steps": 6, "modes": ["a", "b"]},
    {},
    "1",
)


def live_run(tracking: Tracking) -> LiveRun:
    return LiveRun(tracking, "dagster-1", flush_seconds=0.05)


def record(step: int, time_ms: int = 1_000_000) -> dict[str, float]:
    return {
        "step": step,
        "time_ms": time_ms + step,
        "loss": 1 / (1 + step),
        "memory_bytes": 1e9,
        "gate_attn_0": 0.1,
    }


def publish(project: Project, records: list[dict[str, float]]) -> Artifact:
    def write(directory: Path, _: object) -> dict[str, Any]:
        (directory / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in records)
        )
        return {"seconds": 1.0, "device": "cpu"}

    return project.store.build(INPUTS, write)


def the_run(tracking: Tracking) -> Any:
    (run,) = runs_of(tracking, fingerprint=INPUTS.fingerprint)
    return run


def loss_curve(tracking: Tracking) -> list[tuple[int, float, int]]:
    history = MlflowClient(tracking.uri).get_metric_history(
        the_run(tracking).info.run_id, "training/loss"
    )
    return sorted((point.step, point.value, point.timestamp) for point in history)


def wait_for_steps(tracking: Tracking, steps: int) -> None:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        if runs_of(tracking, fingerprint=INPUTS.fingerprint) and len(loss_curve(tracking)) == steps:
            return
        time.sleep(0.05)
    raise AssertionError(f"MLflow never showed {steps} steps")


def test_steps_are_seen_while_training_runs_below_run_of_domain(
    tracking: Tracking,
) -> None:
    with live_run(tracking) as live:
        live.started(INPUTS, 0)
        live.stepped(record(0))
        live.stepped(record(1))
        wait_for_steps(tracking, 2)
        run = the_run(tracking)
        assert run.info.status == "RUNNING"
        assert run.data.metrics["training/memory_bytes"] == 1e9
        assert {"steps": "6", "modes": '["a", "b"]'}.items() <= run.data.params.items()
        expected = {"asset": "customized_checkpoint", "domain": "shapes", "method": "gated-image"}
        assert {**expected, "dagster.run_id": "dagster-1"}.items() <= run.data.tags.items()
        (parent,) = runs_of(tracking, **{"react.parent": "shapes"})
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_log_of_checkpoint_finishes_same_run_and_doubles_no_row(
    tracking: Tracking, tiny_project: Project
) -> None:
    records = [record(step) for step in range(6)]
    with live_run(tracking) as live:
        live.started(INPUTS, 0)
        for line in records[:4]:
            live.stepped(line)
    artifact = publish(tiny_project, records)
    assert tracking.log_artifact(tiny_project, artifact) == live.run_id
    run = the_run(tracking)
    assert run.info.status == "FINISHED"
    assert run.data.tags["path"] == str(artifact.path)
    assert loss_curve(tracking) == [
        (line["step"], line["loss"], line["time_ms"]) for line in records
    ]


def test_training_that_ends_before_mlflow_answers_has_duration(
    tracking: Tracking, tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, connect = threading.Event(), Runs.connect

    def slow(runs: Runs) -> MlflowClient:
        published.wait(600)
        return connect(runs)

    monkeypatch.setattr(Runs, "connect", slow)
    with live_run(tracking) as live:
        live.started(INPUTS, 0)
        artifact = publish(tiny_project, [record(0)])
        published.set()
    assert tracking.log_artifact(tiny_project, artifact) == live.run_id
    info = the_run(tracking).info
    # A manifest has the second in which it was written.
    assert info.end_time - info.start_time >= 1_000 * artifact.counts["seconds"]


def test_interrupted_training_is_killed_and_resumes_in_same_run(tracking: Tracking) -> None:
    with pytest.raises(KeyboardInterrupt), live_run(tracking) as live:
        live.started(INPUTS, 0)
        live.stepped(record(0))
        raise KeyboardInterrupt
    assert the_run(tracking).info.status == "KILLED"
    with live_run(tracking) as again:
        again.started(INPUTS, 1)
        again.stepped(record(1))
    assert again.run_id == live.run_id
    assert the_run(tracking).info.status == "RUNNING"
    assert [step for step, _, _ in loss_curve(tracking)] == [0, 1]


def test_finished_run_of_the_same_inputs_is_left_alone(
    tracking: Tracking, tiny_project: Project
) -> None:
    tracking.log_artifact(tiny_project, publish(tiny_project, [record(0)]))
    with live_run(tracking) as live:
        live.started(INPUTS, 0)
        live.stepped(record(0, time_ms=9_000_000))
        live.failed(TrainingError("the store was emptied, and then the loss was no number"))
    assert the_run(tracking).info.status == "FINISHED"
    assert loss_curve(tracking) == [(0, 1.0, 1_000_000)]


def test_a_server_that_is_down_fails_no_training(
    tracking: Tracking, tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    with LiveRun(Runs("http://127.0.0.1:9", "tiny"), flush_seconds=0.05) as live:
        live.started(INPUTS, 0)
        for step in range(3):
            live.stepped(record(step))
    assert [entry.levelname for entry in caplog.records if "unavailable" in entry.message] == [
        "WARNING"
    ]
    tracking.log_artifact(tiny_project, publish(tiny_project, [record(step) for step in range(3)]))
    assert [step for step, _, _ in loss_curve(tracking)] == [0, 1, 2]


def test_no_thread_imports_ipython_beside_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "IPython.py").write_text("import threading\nthread = threading.current_thread()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with LiveRun(Runs("http://127.0.0.1:9", "tiny"), flush_seconds=0.05) as live:
        live.started(INPUTS, 0)
    assert sys.modules["IPython"].thread is threading.main_thread()
    monkeypatch.delitem(sys.modules, "IPython")
