"""The processes of a training: one, unless an extension shares the training among several.

Shapes: B pairs of a process's part of a batch, D embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """The processes of one training. What they exchange is here what this one has.

    Attributes:
        rank: Number of this process; process 0 alone writes.
        one_machine: Whether all of them see the same local disk.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    one_machine: bool = True

    @property
    def device_type(self) -> str:
        """The kind of device, as autocast wants it."""
        return self.device.partition(":")[0]

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and notifies observers."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """Return this process's equal part of a batch; the parts of all ranks in order are the
        batch.
        """
        each = len(batch) // self.size
        return batch[self.rank * each : (self.rank + 1) * each]

    def share(self, count: int) -> Tensor:
        """Return which of `count` rows this process makes, as many as any other; the last ones may
        make the last row again.
        """
        each = -(-count // self.size)
        return torch.arange(self.rank * each, (self.rank + 1) * each).clamp_(max=count - 1)

    def joined(self, rows: Tensor, count: int) -> Tensor:
        """Return all `count` rows, on the CPU, in every process; `rows` are those of its `share`,
        on any device.
        """
        return self.gather(rows.to(self.device)).cpu()[:count]

    def gather(self, vectors: Tensor) -> Tensor:
        """Return the vectors (B, D) of all processes, in the order of their ranks: (size * B, D),
        without a graph.
        """
        return vectors.detach()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, with its sum over all processes."""

    def broadcast(self, value: Any) -> Any:
        """Return what the writer passes here; the others' own argument is ignored. Also waits until
        all have arrived.
        """
        return value
