"""Processes that train together: torchrun's environment, and the few collective operations that
training needs.

Shapes: B pairs of a process's part of a batch, D embedding dimension.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from react_pipeline.store import InputError

PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class World:
    """The processes of one training.

    Attributes:
        rank: Number of this process; process 0 alone writes.
        one_machine: Whether all of them see the same local disk.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    one_machine: bool = True

    @classmethod
    def join(cls, device: str) -> World:
        """Join the processes that torchrun started (gloo on CPUs, NCCL on GPUs), or run alone.

        Args:
            device: `cpu` or `cuda`; of several GPUs each process takes the one of its local rank.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=device)
        local_rank = int(os.environ["LOCAL_RANK"])
        if device == "cuda":
            if local_rank >= torch.cuda.device_count():
                raise InputError(
                    f"customization.processes: more than the {torch.cuda.device_count()} GPUs of "
                    "this machine; lower it"
                )
            torch.cuda.set_device(local_rank)
            device = f"cuda:{local_rank}"
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", size)) == size
        return cls(dist.get_rank(), size, device, one_machine)

    @property
    def device_type(self) -> str:
        """The kind of device, as autocast wants it."""
        return self.device.partition(":")[0]

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and notifies observers."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's equal part of a batch; the parts of all ranks in order are the batch."""
        each = len(batch) // self.size
        return batch[self.rank * each : (self.rank + 1) * each]

    def gather(self, vectors: Tensor) -> Tensor:
        """The vectors (B, D) of all processes, in the order of their ranks: (size * B, D), without
        a graph.
        """
        vectors = vectors.detach()
        if self.size == 1:
            return vectors
        parts = [torch.empty_like(vectors) for _ in range(self.size)]
        dist.all_gather(parts, vectors.contiguous())
        return torch.cat(parts)

    def share(self, count: int) -> Tensor:
        """Which of `count` rows this process makes, as many as any other; the last ones may make
        the last row again.
        """
        each = -(-count // self.size)
        return torch.arange(self.rank * each, (self.rank + 1) * each).clamp_(max=count - 1)

    def joined(self, rows: Tensor, count: int) -> Tensor:
        """All `count` rows, on the CPU, in every process; `rows` are those of its `share`, on any
        device.
        """
        return self.gather(rows.to(self.device)).cpu()[:count]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all processes."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def broadcast(self, value: Any) -> Any:
        """What the writer passes here; the others' own argument is ignored. Also waits until all
        have arrived.
        """
        if self.size == 1:
            return value
        carried = [value]
        dist.broadcast_object_list(carried, src=0, group=_patient_group())
        return carried[0]


@lru_cache(maxsize=1)
def _patient_group() -> Any:
    """The same processes, waiting longer: the writer may wait for a lock, or hash and save a large
    model.
    """
    return dist.new_group(backend="gloo", timeout=PATIENCE)
