"""System metrics of a training: processor, memory, disk, network and GPU, under the names that
MLflow's page looks for.

Belongs here: sampling with MLflow's own monitors, and the file that keeps samples which MLflow did
not take.
"""

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


class SystemMetrics:
    """Samples of the machine, kept until they are taken; it never raises and needs no thread of its
    own.

    Attributes:
        first_step: Number of the first sample; those of an earlier try come before it.
        waiting: Samples that have not been taken yet, numbered from 0.
    """

    def __init__(self) -> None:
        """Nothing is sampled before `start`."""
        self.first_step = 0
        self.waiting: deque[Row] = deque(maxlen=MAX_WAITING_ROWS)
        self._step = 0
        self._due = 0.0
        self._monitors: list[Any] = []

    def start(self) -> None:
        """Find out what can be sampled on this machine."""
        # No MLflow, no GPU, a driver that does not answer: each has an error of its own, and none
        # matters here.
        with suppress(Exception):
            from mlflow.system_metrics.metrics import (
                cpu_monitor,
                disk_monitor,
                gpu_monitor,
                network_monitor,
            )

            self._monitors = [
                cpu_monitor.CPUMonitor(),
                disk_monitor.DiskMonitor(),
                network_monitor.NetworkMonitor(),
            ]
            self._monitors.append(gpu_monitor.GPUMonitor())
        # The processor's load is that since the last look, so the first look has no value.
        self._collect()

    def sample(self, *, now: bool = False) -> None:
        """Take a sample if one is due, or `now`."""
        if time.monotonic() < self._due and not now:
            return
        self._due = time.monotonic() + SAMPLE_SECONDS
        time_ms = round(time.time() * 1000)
        for name, value in self._collect().items():
            self.waiting.append(Row(SYSTEM_PREFIX + name, value, self._step, time_ms))
        self._step += 1

    def rows(self) -> list[Row]:
        """What waits, with its final numbers."""
        return [row._replace(step=row.step + self.first_step) for row in self.waiting]

    def _collect(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with suppress(Exception):
                monitor.collect_metrics()
                values |= {
                    name: float(value) for name, value in monitor.aggregate_metrics().items()
                }
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
