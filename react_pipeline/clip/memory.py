"""Memory of a pass through a model: what each row adds to it, forwards and backwards.

The rest (weights, their gradients, moments) is there whatever the batch. Does not belong here: what
a training or an encoder does where memory is short (`training.guards`, `embedding.encoder`).
"""

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import starmap
from operator import sub
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COUNTED = 2
"""Rows whose bytes are counted, and twice as many: what both have alike is no row's."""

OUT_OF_MEMORY = ("allocate memory", "ALLOC_FAILED", "out of memory")
"""Messages of out-of-memory errors of a CPU's allocator and of CUDA's libraries."""


def row_bytes(
    encode: Callable[[int], Iterable[Tensor]], rows: int, trained: Sequence[Tensor] = ()
) -> int:
    """Return the bytes that each row adds to the most memory of a pass, backwards too where
    something trains.

    Args:
        encode: Maps a number of rows, up to `rows`, to their features as in earnest, of one side
            after the other.
        trained: What the gradients are of; they are not kept.
    """
    most, fewer = min(2 * COUNTED, rows), max(1, min(COUNTED, rows - 1))
    alive = []
    for count in (most, fewer):
        with _Alive() as mode, torch.compiler.set_stance("force_eager"):
            for features in [*encode(count)]:
                if features.requires_grad:
                    torch.autograd.grad(features.sum(), trained, allow_unused=True)
        alive.append(mode.bytes)
    # Both take the same operations. The most of few rows alone may be where weights are copied.
    added = max(starmap(sub, zip(*alive, strict=False)), default=0)
    return max(0, added) // max(1, most - fewer)


class _Alive(TorchDispatchMode):
    """Notes how many bytes made within it are alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()  # views share one
                self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._storages = {k: one for k, one in self._storages.items() if not one[0].expired()}
        if func.namespace == "aten":  # fake tensors are asked more, unless a cache knows the answer
            self.bytes.append(sum(size for _, size in self._storages.values()))
        return result


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that memory is short, on a GPU or a CPU."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY)


def free_bytes(device: str) -> int:
    """Return the memory that a process may still take: of the GPU, or of the whole machine."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # memory in PyTorch's cache counts as taken
        return int(torch.cuda.mem_get_info(device)[0])
    return machine_memory_bytes()


def machine_memory_bytes() -> int:
    """Return the memory of this machine, or of the container if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return physical
