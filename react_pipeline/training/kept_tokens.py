"""Kept tokens: what the frozen first blocks make of every image, computed once and mapped from a file.

Does not belong here: the blocks (`tower`), the images (`training.data`). Shapes: N pairs, V views, T tokens, W width.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from react_pipeline.embedding import CPU_IMAGES, LONG_RUN, convert
from react_pipeline.store import seal, sealed
from react_pipeline.training.data import Draw, Views
from react_pipeline.training.distributed import World

TOKENS_FILE = "tokens.bin"
ABOUT_FILE = "tokens.json"
BATCH = 64
MAX_DISK_FRACTION = 0.5
"""Of the free disk; beyond it the tokens are computed at every step."""


def keep_tokens(
    compute: Callable[[Tensor], Tensor],
    views: Views,
    count: int,
    directory: Path,
    world: World,
    dtype: torch.dtype,
    workers: int,
    convertible: nn.Module | None = None,
) -> Tensor | None:
    """Tokens (N, V, T, W), or features (N, V, D), of `count` views of every pair; None where they do not fit the disk.

    The file outlives a kill: a resumed training finds it. Several processes of one machine fill it together.

    Args:
        compute: Maps images (B, 3, H, W) to what is kept of them, (B, T, W) or (B, D).
        views: View numbers 0 to `count` - 1 are kept.
        directory: Where the file is; the same one in all processes.
        dtype: `torch.bfloat16` halves the file.
        convertible: The tower that `compute` runs, if its layers may be fused for many images.
    """
    pairs = len(views.pairs)
    with torch.autocast(tower_device(world), torch.bfloat16, enabled=dtype == torch.bfloat16):
        probe = compute(views.batch([(0, 0)]).to(world.device))
    shape = (pairs, count, *probe.shape[1:])
    size_bytes = math.prod(shape) * dtype.itemsize
    about = {"shape": list(shape), "dtype": str(dtype)}
    path, marker = directory / TOKENS_FILE, directory / ABOUT_FILE
    found = fits = False
    if world.is_writer:  # it decides for all: the others would look at a disk that changes meanwhile
        found = sealed(marker) == about
        if not found:
            # Half a file of a killed training must not take the space of the whole one.
            marker.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        fits = found or size_bytes <= MAX_DISK_FRACTION * shutil.disk_usage(directory).free
    found, fits = world.broadcast((found, fits))
    if not fits:
        return None
    if not found and world.is_writer:
        with path.open("wb") as file:
            # A memory map of a sparse file would die of SIGBUS where the disk is full.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
    world.broadcast(None)
    kept = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    if not found:
        if convertible is not None and pairs * count >= LONG_RUN:
            images = views.batch([(position, 0) for position in range(min(pairs, CPU_IMAGES))])
            precision = "bf16" if dtype == torch.bfloat16 else "fp32"
            compute = convert(compute, convertible, [images, images[:1]], precision) or compute
        _fill(kept, compute, views, world, workers)
        world.broadcast(None)
        if world.is_writer:
            seal(marker, [path], about)
        # What the others do next, a gather of GPUs, does not wait as long as a disk may take.
        world.broadcast(None)
    return kept


def tower_device(world: World) -> str:
    """The kind of device, as autocast wants it."""
    return world.device.partition(":")[0]


def _fill(kept: Tensor, compute: Callable[[Tensor], Tensor], views: Views, world: World, workers: int) -> None:
    draws: list[Draw] = [(position, view) for position in range(len(kept)) for view in range(kept.shape[1])]
    mine = draws[world.rank :: world.size]
    batches = [mine[start : start + BATCH] for start in range(0, len(mine), BATCH)]
    images = views.batches(batches, workers, world.device)
    for wanted, batch in zip(_seen(batches, world), images, strict=True):
        with torch.autocast(tower_device(world), torch.bfloat16, enabled=kept.dtype == torch.bfloat16):
            tokens = compute(batch).to("cpu", kept.dtype)
        positions, numbers = zip(*wanted, strict=True)
        kept[list(positions), list(numbers)] = tokens


def _seen(batches: list[list[Draw]], world: World) -> Iterator[list[Draw]]:
    yield from tqdm(batches, "frozen part, kept", disable=None if world.is_writer else True)
