"""The log of a training that goes on has the lines of the steps before."""

from __future__ import annotations

import json
from pathlib import Path

from react_pipeline.training.log import TrainingLog, TrainingObserver

LINES = [json.dumps({"step": step, "loss": float(step)}) + "\n" for step in range(5)]


def resumed(path: Path | None, start: int) -> list[float]:
    earlier = "".join(LINES[:start])
    steps = range(start, start + 1)
    with TrainingLog(path, TrainingObserver(), steps, 8, "cpu", "training", earlier) as log:
        log.add(start, {"loss": 99.0}, waited=0.25, seconds=1.0)
        counts = log.counts()
        assert (counts["images_per_second"], counts["data_wait_fraction"]) == (8, 0.25)
        return log.losses()


def test_a_log_goes_on_after_the_lines_of_earlier_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert resumed(path, 3) == [0.0, 1.0, 2.0, 99.0]
    assert resumed(path, 0) == [99.0]
    assert resumed(None, 0) == [], "a process that does not write has no losses"
