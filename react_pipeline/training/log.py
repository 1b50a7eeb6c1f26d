"""The log of a training: one line of `metrics.jsonl` a step, the progress bar, and observers, who
follow it so that the library needs neither MLflow nor Dagster.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from react_pipeline.store import Inputs

METRICS_FILE = "metrics.jsonl"


class TrainingObserver:
    """Follows one training in the process that writes its artifact; this one ignores everything.

    An observer never raises.
    """

    @property
    def url(self) -> str | None:
        """Return the page of the training in a browser; None before there is one."""
        return None

    def started(self, inputs: Inputs, first_step: int) -> None:
        """A training begins, or resumes at `first_step` after it was killed."""

    def stepped(self, record: Mapping[str, float]) -> None:
        """A step is done; `record` is one line of `metrics.jsonl` (with `step`), and in addition
        `time_ms` since 1970, speed and memory.
        """

    def failed(self, error: BaseException) -> None:
        """The training stops without a checkpoint."""


class TrainingLog:
    """Writes in the process that has a file to write to; counts in every process.

    The file is published, and equal inputs give equal files: times go to the observer alone.
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
        self._seconds = self._waited = 0.0
        self._observer = observer
        self._images = len(steps) * batch_size
        self._batch_size = batch_size
        self._device = device
        self._metrics = metrics or Path(os.devnull)
        self._file = self._metrics.open("w", encoding="utf-8")
        self._file.write(earlier)
        hidden = None if metrics else True
        self._bar = tqdm(desc=title, total=steps.stop, initial=steps.start, disable=hidden)

    def __enter__(self) -> TrainingLog:
        """Close the log at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and the bar."""
        self._bar.close()
        self._file.close()

    def add(self, step: int, values: Mapping[str, float], *, waited: float, seconds: float) -> None:
        """Record a step: its values, how long it took, and how much of that it waited for data."""
        self._waited += waited
        self._seconds += seconds
        record: dict[str, Any] = {"step": step, **values}
        self._file.write(json.dumps(record) + "\n")
        seconds = max(seconds, 1e-9)
        self._observer.stepped(
            {
                **record,
                "time_ms": round(time.time() * 1000),
                "images_per_second": round(self._batch_size / seconds, 2),
                "data_wait_fraction": round(waited / seconds, 4),
                "memory_bytes": peak_memory_bytes(self._device),
            }
        )
        self._bar.update()

    def text(self) -> str:
        """Return all lines, those of earlier tries too; none in processes that do not write."""
        self._file.flush()
        return self._metrics.read_text(encoding="utf-8")

    def losses(self) -> list[float]:
        """Return the loss of every step, of earlier tries too; empty in processes that do not
        write.
        """
        return [json.loads(line)["loss"] for line in self.text().splitlines()]

    def counts(self) -> dict[str, Any]:
        """Return speed, memory, and the first and the last loss, for the manifest."""
        losses: list[float | None] = [*self.losses()] or [None]
        seconds = max(self._seconds, 1e-9)
        return {
            "images_per_second": round(self._images / seconds, 1),
            "data_wait_fraction": round(self._waited / seconds, 4),
            "peak_memory_bytes": peak_memory_bytes(self._device),
            "first_loss": losses[0],
            "final_loss": losses[-1],
        }


def peak_memory_bytes(device: str) -> int:
    """Return the most memory so far: of the GPU's allocator, or of this process."""
    if device.startswith("cuda"):
        import torch  # is loaded only where a training runs

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
