"""`workers: auto` follows the cores that a process may use, and the processes that share them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.settings import EmbeddingConfig, TrainingConfig, usable_cores, workers
from react_pipeline.training.log import TrainingLog
from react_pipeline.training.observer import TrainingObserver


@pytest.fixture
def limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The container's limit, on a machine of 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(workers, "CPU_LIMIT", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", 16), ("400000 100000\n", 4), ("50000 100000\n", 1), ("", 16), (None, 16)],
)
def test_usable_cores_are_those_of_affinity_and_container(
    limit: Path, text: str | None, cores: int
) -> None:
    if text is not None:
        limit.write_text(text)
    assert usable_cores() == Machine.here(limit).cores == cores
    assert EmbeddingConfig().worker_count == max(cores - 1, 1)


@pytest.mark.parametrize(("processes", "count"), [(1, 15), (2, 7), (8, 1), (64, 1)])
def test_processes_of_a_training_share_the_cores(limit: Path, processes: int, count: int) -> None:
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
