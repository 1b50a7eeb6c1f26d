"""Processes that train together: torchrun's environment, and the few collective operations that
training needs.

Shapes: B pairs of a process's part of a batch, D embedding dimension.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from react_pipeline.store import InputError
from react_pipeline.training import World

STEP_PATIENCE, PATIENCE = timedelta(hours=1), timedelta(days=2)
"""How long a process waits for the others: within a step, while the writer may save a state of tens
of gigabytes; and where the writer may wait for a lock, or hash and save a large model.
"""


class Processes(World):
    """The processes that torchrun started."""

    @classmethod
    def join(cls, device: str) -> World:
        """Join them (gloo on CPUs, NCCL on GPUs), or run alone.

        Args:
            device: `cpu` or `cuda`; of several GPUs each process takes the one of its local rank.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return World(device=device)
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
            card = None if device == "cpu" else torch.device(device)
            backend = "nccl" if card else "gloo"
            dist.init_process_group(backend, timeout=STEP_PATIENCE, device_id=card)
        one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", size)) == size
        return cls(dist.get_rank(), size, device, one_machine)

    def gather(self, vectors: Tensor) -> Tensor:
        """Gather by the group's all-gather."""
        vectors = vectors.detach()
        parts = [torch.empty_like(vectors) for _ in range(self.size)]
        dist.all_gather(parts, vectors.contiguous())
        return torch.cat(parts)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum by the group's all-reduce, all tensors at once."""
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()

    def broadcast(self, value: Any) -> Any:
        """Send by a group that waits for `PATIENCE`."""
        carried = [value]
        dist.broadcast_object_list(carried, src=0, group=_patient_group())
        return carried[0]


@lru_cache(maxsize=1)
def _patient_group() -> Any:
    """Return a group of the same processes that waits longer."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
