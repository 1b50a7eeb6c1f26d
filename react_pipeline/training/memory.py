"""Memory of a step: what each pair adds to it, counted before the first one.

A step keeps what its backward pass needs of every image and text of a part; the rest (weights,
gradients, moments) is there whatever the batch. With activation checkpointing the block that is
computed again comes on top, and is not counted. Does not belong here: running out of it (`guards`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from react_pipeline.indexing import machine_memory_bytes
from react_pipeline.store import InputError

COUNTED = 2
"""Pairs whose bytes are counted, and twice as many: what both have alike is no pair's."""


def saved_bytes(encode: Callable[[int], object], pairs: int) -> int:
    """Return the bytes that each pair adds to what `encode`, given a number of pairs up to `pairs`,
    keeps for the backward pass.
    """

    def kept(some: int) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Any:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()  # views share one
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
            features = encode(some)  # alive, so that no two tensors have one place
        del features
        return sum(storages.values())

    most, fewer = min(2 * COUNTED, pairs), max(1, min(COUNTED, pairs - 1))
    return max(0, kept(most) - kept(fewer)) // max(1, most - fewer)


def free_bytes(device: str) -> int:
    """Return the memory that a process may still take: of the GPU, or of the whole machine."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # what PyTorch keeps for itself counts as taken
        return int(torch.cuda.mem_get_info(device)[0])
    return machine_memory_bytes()


def require_memory(part: int, pair_bytes: int, device: str) -> str:
    """Refuse a part of a batch that does not fit; return in words how many pairs do.

    Args:
        part: Pairs that a process encodes at once.

    Raises:
        InputError: Naming the bytes and the pairs that fit.
    """
    free = free_bytes(device)
    fits = f"about {free // max(1, pair_bytes):,} pairs fit at once, of {pair_bytes:,} bytes each"
    if part * pair_bytes > free:
        raise InputError(
            f"customization.batch_size: {part:,} pairs at once need {part * pair_bytes:,} bytes of "
            f"memory, and {device} has {free:,}; {fits}: raise accumulation, or lower batch_size"
        )
    return fits
