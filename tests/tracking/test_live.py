"""FAULTS 27 and 30: what MLflow shows of a training while it runs, after it failed or was killed,
and of its retry.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.tracking import runs_of, tracking_at

from react_pipeline.store import Artifact, Inputs, TrainingError
from react_pipeline.tracking import LiveRun, Tracking, live

KEY = "shapes/gated-image"
INPUTS = Inputs("customized_checkpoint", KEY, {"method": "gated-image", "steps": 6}, {}, "1")
DOWN = "http://127.0.0.1:9"


@contextmanager
def training(
    tracking: Tracking,
    lines: Iterable[dict[str, float]] = (),
    inputs: Inputs = INPUTS,
    first: int = 0,
) -> Iterator[LiveRun]:
    """A training that has taken these steps."""
    with LiveRun(tracking, "dagster-1") as run:
        run.started(inputs, first)
        for line in lines:
            run.stepped(line)
        yield run


def records(*steps: int, time_ms: int = 1_000_000) -> list[dict[str, float]]:
    return [
        {"step": step, "time_ms": time_ms + step, "loss": 1 / (1 + step), "memory_bytes": 1e9}
        for step in steps
    ]


def publish(tracking: Tracking, lines: list[dict[str, float]]) -> Artifact:
    def write(directory: Path, _: object) -> dict[str, Any]:
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"seconds": 1.0, "device": "cpu"}

    return tracking.project.store.build(INPUTS, write)


def the_run(tracking: Tracking, inputs: Inputs = INPUTS) -> Any:
    (run,) = runs_of(tracking, fingerprint=inputs.fingerprint)
    return run


def loss_curve(tracking: Tracking) -> list[tuple[int, float, int]]:
    run_id = the_run(tracking).info.run_id
    history = MlflowClient(tracking.uri).get_metric_history(run_id, "training/loss")
    return sorted((point.step, point.value, point.timestamp) for point in history)


def test_steps_are_seen_while_training_runs(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.0)
    with training(tracking, records(0, 1)):
        assert len(loss_curve(tracking)) == 2
        run = the_run(tracking)
        assert run.info.status == "RUNNING"
        assert run.data.metrics["training/memory_bytes"] == 1e9
        assert run.data.params["steps"] == "6" and run.data.tags["dagster.run_id"] == "dagster-1"


def test_a_failed_training_has_a_run_with_reason_and_losses(tracking: Tracking) -> None:  # 27
    lines = [*records(*range(5)), {"step": 5, "loss": float("nan")}]
    with pytest.raises(TrainingError), training(tracking, lines):
        raise TrainingError("the loss is nan at step 5; lower learning_rate")
    run = the_run(tracking)
    assert run.info.status == "FAILED" and run.info.end_time
    for tag in ("error", "mlflow.note.content"):
        assert run.data.tags[tag] == "the loss is nan at step 5; lower learning_rate"
    assert run.data.tags["error.type"] == "TrainingError"
    assert [step for step, _, _ in loss_curve(tracking)] == [0, 1, 2, 3, 4]
    assert not MlflowClient(tracking.uri).search_registered_models()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError("the disk is gone"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (None, "RUNNING"),  # its process was killed outright, and said nothing
    ],
)
def test_a_retried_training_finishes_without_a_double_row(  # 27, 30
    tracking: Tracking, error: BaseException | None, status: str
) -> None:
    lines = records(*range(8))
    with suppress(OSError, KeyboardInterrupt), training(tracking, lines[:6]) as killed:
        if error is not None:
            raise error
    assert the_run(tracking).info.status == status
    lines[4:] = records(*range(4, 8), time_ms=9_000_000)
    with training(tracking, lines[4:7], first=4):
        pass
    run = the_run(tracking)
    assert run.info.status == "RUNNING" and run.info.run_id == killed.run_id
    assert not {"error", "error.type"} & set(run.data.tags)
    assert "gone" not in run.data.tags["mlflow.note.content"]
    assert tracking.log_artifact(publish(tracking, lines)) == killed.run_id
    assert the_run(tracking).info.status == "FINISHED"
    # The last step was never streamed.
    assert [step for step, _, _ in loss_curve(tracking)] == list(range(8))
    assert loss_curve(tracking)[-1] == (7, lines[7]["loss"], lines[7]["time_ms"])


def test_a_killed_training_is_closed_and_a_running_one_finishes(tracking: Tracking) -> None:  # 30
    killed, running = (replace(INPUTS, config={"steps": steps}) for steps in (9, 10))
    for inputs in (killed, running):
        with training(tracking, inputs=inputs):
            pass  # its run stays RUNNING
    tracking.log_artifact(publish(tracking, records(0)))
    tracking.log_artifact(tracking.project.store.build(running, lambda *_: {}))
    assert the_run(tracking, killed).info.status == "KILLED"
    assert the_run(tracking, running).info.status == "FINISHED"


def test_finished_run_of_the_same_inputs_is_left_alone(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.0)
    tracking.log_artifact(publish(tracking, records(0)))
    with pytest.raises(TrainingError), training(tracking, records(0, 1, time_ms=9_000_000)):
        raise TrainingError("the store was emptied, and then the loss was no number")
    assert the_run(tracking).info.status == "FINISHED"
    assert loss_curve(tracking) == [(0, 1.0, 1_000_000)]


def test_progress_is_reported_now_and_then_also_where_no_server_answers(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "PAUSE_SECONDS", 600.0)
    reported: list[str] = []
    for steps, first in (({"steps": 9}, 4), ({}, 0)):  # a closed form has no steps to report
        with LiveRun(tracking_at(tracking.project, DOWN), "", reported.append) as run:
            run.started(Inputs("customized_checkpoint", KEY, steps, {}, "1"), first)
            for step in range(first, 9):
                run.stepped({"step": step, "loss": 0.5, "images_per_second": 12.0})
    assert reported == [
        f"training {KEY}: resuming at step 4",
        "step 5 of 9: loss 0.5, 12 images/s",
        f"training {KEY}: from the start",
    ]
    assert [entry.levelname for entry in caplog.records if "unavailable" in entry.message] == [
        "WARNING"
    ]
