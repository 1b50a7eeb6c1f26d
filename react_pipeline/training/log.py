"""The log of a training: one line of `metrics.jsonl` a step, the progress bar, and the observer."""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from react_pipeline.store import write_atomically
from react_pipeline.training.observer import TrainingObserver

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
MUCH_WAITING = 0.3
SHORT_SECONDS = 60
"""Shorter trainings mostly wait for the start of the workers."""


class TrainingLog:
    """Writes in the process that has a file to write to; counts in every process.

    Attributes:
        stepping_seconds: In steps, waiting for data included.
        waited_seconds: Of these, waiting for data.
    """

    def __init__(
        self,
        metrics: Path | None,
        observer: TrainingObserver,
        steps: range,
        batch_size: int,
        device: str,
        title: str,
    ) -> None:
        """Drop what an earlier try wrote of steps from the first of `steps` on; a torn line goes
        with it.

        Args:
            metrics: The file; None in processes that do not write.
            batch_size: Pairs of a step over all processes.
        """
        self.stepping_seconds = self.waited_seconds = 0.0
        self._observer = observer
        self._steps = len(steps)
        self._batch_size = batch_size
        self._device = device
        self._metrics = metrics
        if metrics is not None:
            write_atomically(metrics, "".join(whole_lines(metrics)[: steps.start]))
        self._file = None if metrics is None else metrics.open("a", encoding="utf-8")
        self._bar = tqdm(
            total=steps.stop,
            initial=steps.start,
            desc=title,
            disable=True if metrics is None else None,
        )

    def __enter__(self) -> TrainingLog:
        """Close the log at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and the bar."""
        self._bar.close()
        if self._file is not None:
            self._file.close()

    def add(self, step: int, values: Mapping[str, float], *, waited: float, seconds: float) -> None:
        """Record a step: its values, how long it took, and how much of that it waited for data."""
        self.waited_seconds += waited
        self.stepping_seconds += seconds
        speed = self._batch_size / max(seconds, 1e-9)
        if self._file is None:
            return
        record: dict[str, Any] = {"step": step, **values}
        # The file is published, and equal inputs give equal files: times go to the observer alone.
        self._file.write(json.dumps(record) + "\n")
        self._observer.stepped(
            {
                **record,
                "time_ms": round(time.time() * 1000),
                "images_per_second": round(speed, 2),
                "data_wait_fraction": round(waited / max(seconds, 1e-9), 4),
                "memory_bytes": peak_memory_bytes(self._device),
            }
        )
        self._bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {speed:.1f} images/s, {self.data_wait_fraction:.0%} "
            "waiting for data"
        )
        self._bar.update()

    def flush(self) -> None:
        """Put what was recorded on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    @property
    def data_wait_fraction(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self.waited_seconds / max(self.stepping_seconds, 1e-9)

    def counts(self) -> dict[str, float]:
        """Speed and memory, for the manifest."""
        images = self._steps * self._batch_size
        return {
            "images_per_second": round(images / max(self.stepping_seconds, 1e-9), 1),
            "data_wait_fraction": round(self.data_wait_fraction, 4),
            "peak_memory_bytes": peak_memory_bytes(self._device),
        }

    def warn_of_waiting(self, workers: int) -> None:
        """Warn if data that so many workers decoded was waited for during much of the steps."""
        if self.stepping_seconds > SHORT_SECONDS and self.data_wait_fraction > MUCH_WAITING:
            enough = math.ceil((workers or 1) / (1.001 - self.data_wait_fraction))
            logger.warning(
                f"{self.data_wait_fraction:.0%} of the steps were spent waiting for images: set "
                f"customization.workers to {enough}; it is {workers}"
            )

    def losses(self) -> list[float]:
        """The loss of every step, of earlier tries too; empty in processes that do not write."""
        if self._metrics is None:
            return []
        self.flush()
        return [
            json.loads(line)["loss"]
            for line in self._metrics.read_text(encoding="utf-8").splitlines()
        ]


def whole_lines(metrics: Path) -> list[str]:
    """The lines of a log up to the first that is torn: so many steps are on record. None where
    there is no file.
    """
    if not metrics.exists():
        return []
    lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return list(itertools.takewhile(_is_whole, lines))


def _is_whole(line: str) -> bool:
    """Whether a line was written to its end; a power failure may leave a part of one, or zeros."""
    try:
        return line.endswith("\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def peak_memory_bytes(device: str) -> int:
    """The most memory so far: of the GPU's allocator, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
