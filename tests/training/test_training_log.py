"""The log of a training that goes on has the lines of the steps before."""

import json
from pathlib import Path

from react_pipeline.training.log import TrainingLog, TrainingObserver


def test_a_log_goes_on_after_the_lines_of_earlier_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": float(step)}) + "\n" for step in range(3)]
    with TrainingLog(path, TrainingObserver(), range(3, 4), 8, "cpu", "training", lines) as log:
        log.add(3, {"loss": 99.0}, waited=0.25, seconds=1.0)
        counts = log.counts()
    assert (counts["images_per_second"], counts["data_wait_fraction"]) == (8, 0.25)
    assert (counts["first_loss"], counts["final_loss"]) == (0.0, 99.0)
    written = [json.loads(line)["loss"] for line in path.read_text().splitlines()]
    assert written == log.losses() == [0.0, 1.0, 2.0, 99.0]
