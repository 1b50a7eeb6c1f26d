"""The log of a training that goes on: whole lines of the steps before it stay, whatever a failure
left behind.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from react_pipeline.training.log import TrainingLog, whole_lines
from react_pipeline.training.observer import TrainingObserver

LINES = [json.dumps({"step": step, "loss": float(step)}) + "\n" for step in range(5)]


def resumed(path: Path | None, start: int) -> list[float]:
    with TrainingLog(
        path, TrainingObserver(), range(start, start + 1), 8, "cpu", "training"
    ) as log:
        log.add(start, {"loss": 99.0}, waited=0.0, seconds=1.0)
        return log.losses()


def test_lines_of_steps_that_are_taken_again_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(LINES))
    assert resumed(path, 3) == [0.0, 1.0, 2.0, 99.0]


@pytest.mark.parametrize("torn", [LINES[2][:9], "\0" * 40, LINES[2].rstrip()])
def test_a_torn_line_goes_with_what_follows(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(LINES[:2]) + torn + LINES[4])
    assert whole_lines(path) == LINES[:2]
    assert resumed(path, 2) == [0.0, 1.0, 99.0]


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert whole_lines(tmp_path / "metrics.jsonl") == []
    assert resumed(tmp_path / "metrics.jsonl", 0) == [99.0]


def test_a_process_that_does_not_write_has_no_losses() -> None:
    assert resumed(None, 0) == []


def test_what_is_flushed_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    synced: list[str] = []
    with TrainingLog(path, TrainingObserver(), range(0, 2), 8, "cpu", "training") as log:
        log.add(0, {"loss": 1.0}, waited=0.0, seconds=1.0)
        monkeypatch.setattr("os.fsync", lambda _: synced.append(path.read_text()))
        log.flush()
    assert [json.loads(line)["loss"] for line in synced] == [1.0]


def test_cutting_the_log_never_leaves_it_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(LINES))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("react_pipeline.store.durable.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        resumed(path, 3)
    assert path.read_text() == "".join(LINES)
