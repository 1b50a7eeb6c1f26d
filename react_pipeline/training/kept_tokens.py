"""Kept tokens: what the frozen first blocks make of every image, computed once and mapped from a
file.

Does not belong here: the blocks (`tower`), the images (`training.data`), the file (`kept_rows`).
Shapes: N pairs, V views, T tokens, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor, nn

from react_pipeline.embedding import CPU_IMAGES, LONG_RUN, convert
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import Scratch
from react_pipeline.training.data import Views
from react_pipeline.training.kept_rows import kept_rows
from react_pipeline.training.world import World

TOKENS = "tokens"
BATCH = 64
MAX_DISK_FRACTION = 0.5
"""The share of the free disk that tokens may take; beyond it they are computed at every step."""


def may_keep(training: TrainingConfig, *, splits: bool) -> bool:
    """Return whether what is frozen is the same at every step; `splits`: whether there is any in
    front of what trains.
    """
    return (
        splits and training.keep_prefix and (training.augmentation == "none" or training.views > 0)
    )


def keep_tokens(
    compute: Callable[[Tensor], Tensor],
    views: Views,
    count: int,
    scratch: Scratch,
    world: World,
    dtype: torch.dtype,
    workers: int,
    fusible: nn.Module | None = None,
) -> Tensor | None:
    """Compute tokens (N, V, T, W), or features (N, V, D), of `count` views of every pair; return
    None where they do not fit the disk.

    Args:
        compute: Maps images (B, 3, H, W) to what is kept of them, (B, T, W) or (B, D).
        views: View numbers 0 to `count` - 1 are kept.
        scratch: The same folder in all processes.
        dtype: `torch.bfloat16` halves the file.
        fusible: Holds the weights of `compute`, if its layers may be fused for many images.
    """
    pairs = len(views.pairs)
    bf16 = dtype == torch.bfloat16

    def computed(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with torch.autocast(world.device_type, torch.bfloat16, enabled=bf16):
            return run(images)

    def make(parts: Iterator[Tensor]) -> Generator[Tensor, None, None]:
        run = compute
        if fusible is not None and pairs * count >= LONG_RUN:
            images = views.batch([(position, 0) for position in range(min(pairs, CPU_IMAGES))])
            run = convert(compute, fusible, [images, images[:1]], "bf16" if bf16 else "fp32")
        draws = ([divmod(row, count) for row in part.tolist()] for part in parts)
        for images in views.batches(draws, workers, world.device):
            yield computed(run, images)

    shape = computed(compute, views.batch([(0, 0)]).to(world.device)).shape[1:]
    tokens = kept_rows(
        scratch,
        TOKENS,
        (pairs * count, *shape),
        make,
        dtype,
        world,
        BATCH * world.size,
        MAX_DISK_FRACTION,
    )
    return None if tokens is None else tokens.view(pairs, count, *shape)
