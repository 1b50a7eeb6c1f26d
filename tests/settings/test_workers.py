"""`workers: auto` follows the cores that a process may use, and the processes that share them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from react_pipeline.extensions.plan import Machine
from react_pipeline.settings import EmbeddingConfig, TrainingConfig
from react_pipeline.training.log import TrainingLog
from react_pipeline.training.observer import TrainingObserver


@pytest.mark.parametrize(("cores", "count"), [(1, 1), (16, 15)])
def test_one_of_the_usable_cores_is_left_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, count: int
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    assert Machine.here(tmp_path).cores == cores
    assert EmbeddingConfig().worker_count == TrainingConfig().worker_count == count


@pytest.mark.parametrize(("processes", "count"), [(2, 7), (64, 1)])
def test_processes_of_a_training_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, processes: int, count: int
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 16)
    assert TrainingConfig(processes=processes).worker_count == count
    assert TrainingConfig(processes=processes, workers=3).worker_count == 3
    assert TrainingConfig(workers=0).worker_count == EmbeddingConfig(workers=0).worker_count == 0


@pytest.mark.parametrize(
    ("waited", "seconds", "count"),
    [(0.5, 100, "4"), (0.75, 100, "8"), (0.2, 100, None), (0.9, 10, None)],
)
def test_waiting_for_images_names_the_workers_that_would_do(
    caplog: pytest.LogCaptureFixture, waited: float, seconds: float, count: str | None
) -> None:
    with TrainingLog(None, TrainingObserver(), range(1), 8, "cpu", "training") as log:
        log.add(0, {"loss": 1.0}, waited=waited * seconds, seconds=seconds)
    with caplog.at_level(logging.WARNING):
        log.warn_of_waiting(2)
    assert [f"workers to {count};" in message for message in caplog.messages] == (
        [True] if count else []
    )
