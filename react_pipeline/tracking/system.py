"""System metrics of a training: processor, memory, disk, network and GPU, under the names that MLflow's page looks for.

Belongs here: sampling with MLflow's own monitors, and the file that keeps samples which MLflow did not take. Does not
belong here: when a sample is written (`live`, and `tracking` for those of the file).
"""

import importlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from react_pipeline.tracking.values import SYSTEM_PREFIX, Row

SAMPLE_SECONDS = 10.0
"""Between two samples; MLflow's own default."""

MAX_WAITING_ROWS = 10_000
"""Kept for a server that is down; the oldest are dropped first."""

_MONITORS = {
    "cpu_monitor": "CPUMonitor",
    "disk_monitor": "DiskMonitor",
    "network_monitor": "NetworkMonitor",
    "gpu_monitor": "GPUMonitor",
}


class SystemMetrics:
    """Samples of the machine, kept until they are taken; it never raises and needs no thread of its own.

    Attributes:
        step: Number of the next sample.
        waiting: Samples that have not been taken yet.
    """

    def __init__(self, sample_seconds: float = SAMPLE_SECONDS) -> None:
        self.step = 0
        self.waiting: deque[Row] = deque(maxlen=MAX_WAITING_ROWS)
        self._sample_seconds = sample_seconds
        self._due = 0.0
        self._monitors: list[Any] = []
        for module, name in _MONITORS.items():
            # No GPU, no psutil, a driver that does not answer: each has an error of its own, and none matters here.
            with suppress(Exception):
                found = importlib.import_module(f"mlflow.system_metrics.metrics.{module}")
                self._monitors.append(getattr(found, name)())
        # The processor's load is that since the last look, so the first look has no value.
        self._collect()

    def sample(self, *, now: bool = False) -> None:
        """Take a sample if one is due, or `now`."""
        if time.monotonic() < self._due and not now:
            return
        self._due = time.monotonic() + self._sample_seconds
        time_ms = round(time.time() * 1000)
        for name, value in self._collect().items():
            self.waiting.append(Row(SYSTEM_PREFIX + name, value, self.step, time_ms))
        self.step += 1

    def shift(self, steps: int) -> None:
        """Count on from an earlier try, the samples that wait included."""
        self.step += steps
        waiting = [row._replace(step=row.step + steps) for row in self.waiting]
        self.waiting.clear()
        self.waiting.extend(waiting)

    def _collect(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with suppress(Exception):
                monitor.collect_metrics()
                values |= {name: float(value) for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
        return values


def spool_file(directory: Path, fingerprint: str) -> Path:
    """Where the samples of one training wait for the log of its checkpoint."""
    return directory / f"{fingerprint}.system.jsonl"


def spool(path: Path, rows: Iterable[Row]) -> None:
    """Add samples that MLflow did not take; a disk that refuses them costs only them."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def read_spooled(path: Path) -> Iterator[Row]:
    """The samples that wait there; a line that a killed process cut is left out."""
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, RecursionError):
                yield Row(*json.loads(line))
