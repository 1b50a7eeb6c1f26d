"""The log of a training: one line of `metrics.jsonl` a step, the progress bar, and the observer."""

from __future__ import annotations

import json
import logging
import math
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

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
        earlier: str = "",
    ) -> None:
        """Begin the file with the lines of `earlier`, those of the steps before.

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
        self._file = None if metrics is None else metrics.open("w", encoding="utf-8")
        if self._file is not None:
            self._file.write(earlier)
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

    def text(self) -> str:
        """Return all lines, those of earlier tries too; none in processes that do not write."""
        if self._file is None or self._metrics is None:
            return ""
        self._file.flush()
        return self._metrics.read_text(encoding="utf-8")

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
        """Return the loss of every step, of earlier tries too; empty in processes that do not
        write.
        """
        return [json.loads(line)["loss"] for line in self.text().splitlines()]


def peak_memory_bytes(device: str) -> int:
    """Return the most memory so far: of the GPU's allocator, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
