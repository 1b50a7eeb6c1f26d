"""The log of a training: one line of `metrics.jsonl` a step, the progress bar, and observers, who
follow it so that the library needs neither MLflow nor Dagster.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from react_pipeline.store import Inputs

if TYPE_CHECKING:
    from react_pipeline.training.customization import Customization

METRICS_FILE = "metrics.jsonl"


class TrainingObserver:
    """Follows one training in the process that writes its artifact; this one ignores everything.

    An observer never raises.
    """

    def started(self, inputs: Inputs, first_step: int) -> None:
        """A training begins, or resumes at `first_step` after it was killed."""

    def stepped(self, record: Mapping[str, float]) -> None:
        """A step is done; `record` is one line of `metrics.jsonl` (with `step`), and in addition
        `time_ms` since 1970, speed and memory.
        """


class TrainingLog:
    """Counts steps in every process, and writes them in the one that publishes.

    Equal inputs give equal files: times go to the observer alone.
    """

    def __init__(
        self, customization: Customization, steps: range, batch_size: int, lines: list[str]
    ) -> None:
        """Begin with the lines of the steps before, to which those of this log are added.

        Args:
            batch_size: Pairs of a step over all processes.
        """
        c = customization
        self._metrics = c.staging and c.staging / METRICS_FILE
        self._observer, self._device = c.observer, c.world.device
        self._batch_size, self._lines = batch_size, lines
        self._images = 0
        c.observer.started(c.inputs, steps.start)
        self._seconds = self._waited = 0.0
        hidden = None if c.staging else True
        self._bar = tqdm(desc=c.inputs.key, total=steps.stop, initial=steps.start, disable=hidden)

    def __enter__(self) -> TrainingLog:
        """Write the file at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the file, also where the training stops, and close the bar."""
        self._bar.close()
        if self._metrics is not None:
            self._metrics.write_text("".join(self._lines), encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float], *, waited: float, seconds: float) -> None:
        """Record a step: its values, how long it took, and how much of that it waited for data."""
        seconds = max(seconds, 1e-9)
        self._waited += waited
        self._seconds += seconds
        self._images += self._batch_size
        record: dict[str, Any] = {"step": step, **values}
        self._lines.append(json.dumps(record) + "\n")
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

    def losses(self) -> list[float]:
        """Return the loss of every step, of earlier tries too."""
        return [json.loads(line)["loss"] for line in self._lines]

    def counts(self) -> dict[str, Any]:
        """Return speed, memory, and the first and the last loss, for the manifest."""
        losses = self.losses()
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
