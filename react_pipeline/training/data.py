"""The images of a training: read from the collected shards, decoded in workers, and on their way to
the device.

Does not belong here: the order (`schedule`), the loop (`trainer`). Shapes: B images of a batch, H x
W pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from react_pipeline.clip import Pixels
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import InputError, ReactError
from react_pipeline.training.augmentation import Augment

PairView = tuple[int, int]
"""Position of a pair, and the view of it: 0 is the image as it is, every other number another
augmentation.
"""

PREFETCHED = 2
"""Batches that each worker has ready, or in the making."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there by name


class Images(Protocol):
    """Images by position, RGB, as `corpus.CollectedPairs` decodes them."""

    def decoded(self, position: int, *, lazy: bool = False) -> Image.Image: ...  # noqa: D102 - above

    def __len__(self) -> int: ...


class Views(Dataset[Tensor]):
    """Images of pairs as pixels (3, H, W), uint8; equal draws give equal pixels, in whatever
    process and order.
    """

    def __init__(
        self, pairs: Images, pixels: Pixels, augment: Augment | None = None, seed: int = 0
    ) -> None:
        """Augment with seeds that depend on `seed`, the pair and the view alone; without `augment`
        only view 0 is.
        """
        self.pairs = pairs
        self._pixels = pixels
        self._augment = augment
        self._seed = seed

    def __getitem__(self, draw: PairView) -> Tensor:
        """Decode one view of one image."""
        position, view = draw
        image = self.pairs.decoded(position, lazy=view > 0)
        if self._augment is None or not view:
            return self._pixels(image)
        seed = np.random.SeedSequence([self._seed, position, view]).generate_state(1, np.uint64)[0]
        return self._augment(image, int(seed) >> 1)

    def batch(self, draws: Sequence[PairView]) -> Tensor:
        """Decode one batch (B, 3, H, W) here and now: normalised, float32."""
        return self._pixels.normalised(torch.stack([self[draw] for draw in draws]))

    def batches(
        self, draws: Iterable[Sequence[PairView]], workers: int, device: str = "cpu"
    ) -> Iterator[Tensor]:
        """Batches (B, 3, H, W) of the draws, normalised, float32, on the device; decoded ahead of
        their use.

        Draws are taken as they are needed, so they may be endless.

        Raises:
            CorruptArtifact: If a shard is gone or was cut.
        """
        loader = DataLoader(
            self,
            batch_sampler=draws,  # type: ignore[arg-type]
            num_workers=workers,
            pin_memory=device != "cpu",
            prefetch_factor=PREFETCHED if workers else None,
            worker_init_fn=_one_thread if workers else None,
        )
        loaded: Any = iter(loader)
        try:
            yield from map(self._pixels.normalised, on_device(loaded, device))
        except ReactError as error:
            # One of a worker has its traceback in front, which only says where pixels are made.
            raise type(error)(
                str(error).strip().rpartition(f"{type(error).__name__}: ")[2]
            ) from error
        finally:
            # Not left to the garbage collector: a forked worker holds the locks of this process as
            # long as it lives.
            if workers:
                loaded._shutdown_workers()

    def fitting_workers(self, batch_size: int, training: TrainingConfig) -> int:
        """Return the workers of a process; with `auto` so few that batches of all processes on this
        machine fit the memory through which they pass.

        Raises:
            InputError: With what is needed and what is free.
        """
        workers = training.worker_count
        if not workers or not SHARED_MEMORY.is_dir():
            return workers
        each = self[0, 0].numel() * batch_size * PREFETCHED * training.processes
        free = shutil.disk_usage(SHARED_MEMORY).free
        if training.workers == "auto":
            workers = min(workers, max(free // each, 1))
        needed = each * workers
        if needed > free:
            raise InputError(
                f"customization.workers: batches of {workers} workers need {needed >> 20:,} MiB of "
                f"shared memory, and {SHARED_MEMORY} has {free >> 20:,} free; enlarge it (docker "
                "run --shm-size), or lower workers"
            )
        return workers


def on_device(batches: Iterable[Tensor], device: str) -> Iterator[Tensor]:
    """Yield the batches on a device; to a GPU, each is copied from page-locked memory while the one
    before it is in use.
    """
    if device == "cpu":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    coming = None
    for batch in batches:
        with torch.cuda.stream(copying):
            following = batch.to(device, non_blocking=True)
        if coming is not None:
            # Its memory belongs to the copying stream, which must not write there while it is still
            # read.
            coming.record_stream(torch.cuda.current_stream(device))
            yield coming
        copying.synchronize()  # the host alone waits, and for a copy that began a step ago
        coming = following
    if coming is not None:
        yield coming


def ahead(make: Callable[[int], Tensor], steps: Iterable[int]) -> Iterator[Tensor]:
    """Yield what `make` gives for each step, made by a thread during the step before it."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future[Tensor] | None = None
        for step in steps:
            following = pool.submit(make, step)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
