"""`workers: auto` follows the cores that a process may use, and the processes that share them."""

from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.extensions.plan import Machine
from react_pipeline.settings import EmbeddingConfig, TrainingConfig


@pytest.mark.parametrize(
    ("cores", "processes", "count"), [(1, 1, 1), (16, 1, 15), (16, 2, 7), (16, 64, 1)]
)
def test_one_of_the_usable_cores_is_left_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, count: int
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    assert Machine.here(tmp_path).cores == cores
    assert EmbeddingConfig().worker_count == max(cores - 1, 1)
    assert TrainingConfig(processes=processes).worker_count == count
    assert TrainingConfig(processes=processes, workers=3).worker_count == 3
    assert TrainingConfig(workers=0).worker_count == EmbeddingConfig(workers=0).worker_count == 0
