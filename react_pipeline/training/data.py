"""The images of a training: which pairs a step sees, decoded in workers, on their way to the
device, and encoded from pixels or from what is kept of them.

Does not belong here: the order (`schedule`), the tower (`clip.tower`), a step (`step`). Shapes: B
images of a batch, H x W pixels, N pairs, T tokens, W width, D embedding dimension.
"""

import logging
import shutil
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from react_pipeline.clip import DTYPES, ImageTower, Pixels, compiles, trains_images
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import read_ahead
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import ReactError
from react_pipeline.training.augmentation import Augmentation
from react_pipeline.training.customization import World
from react_pipeline.training.schedule import batch_at

logger = logging.getLogger(__name__)

PairView = tuple[int, int]
"""Position of a pair, and the view of it: 0 is the image as it is, every other number another
augmentation.
"""

PREFETCHED = 2
"""Batches that each worker of a `DataLoader` has ready, or in the making."""

ENCODED_AT_ONCE = 128

IMAGE_DIMENSIONS = 4
"""Dimensions of a batch of images; frozen tokens or vectors have fewer."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there by name


@dataclass(eq=False)
class Views(Dataset[Tensor]):
    """Images of pairs as pixels (3, H, W), uint8; equal draws give equal pixels, in whatever
    process and order.

    Attributes:
        augment: Gets seeds that depend on `seed`, the pair and the view alone; without it all views
            are equal.
    """

    pairs: CollectedPairs
    pixels: Pixels
    augment: Augmentation | None = None
    seed: int = 0

    def __getitem__(self, draw: PairView) -> Tensor:
        """Decode one view of one image."""
        position, view = draw
        image = self.pairs.decoded(position, lazy=view > 0)
        if self.augment is None or not view:
            return self.pixels(image)
        seed = np.random.SeedSequence([self.seed, position, view]).generate_state(1, np.uint64)[0]
        return self.augment(image, int(seed) >> 1)

    def batch(self, positions: Tensor) -> Tensor:
        """Decode one batch (B, 3, H, W) here and now: as they are, normalised, float32."""
        return next(self.batches([positions], 0))

    def batches(
        self,
        parts: Iterable[Tensor],
        workers: int,
        device: str = "cpu",
        views: Iterable[int] = repeat(0),  # noqa: B008 - has no end
    ) -> Iterator[Tensor]:
        """Yield batches (B, 3, H, W) of parts (B,) of positions, each in one view, normalised,
        float32, on the device; decoded ahead of their use.

        Parts are taken as they are needed, so they may be endless.

        Raises:
            CorruptArtifact: If a shard is gone or was cut.
        """
        draws = (
            [(position, view) for position in part.tolist()]
            for part, view in zip(parts, views, strict=False)
        )
        loader = DataLoader(
            self,
            batch_sampler=draws,
            num_workers=workers,
            pin_memory=device != "cpu",
        )
        loaded: Any = iter(loader)
        try:
            yield from map(self.pixels.normalised, on_device(loaded, device))
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


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of a training. Each is a function of the step, so a training can resume at any.

    Attributes:
        positions: The pairs that are trained on.
        size: Pairs of a step over all processes.
        tokens: What need not be computed again, (N, T, W) or (N, D) of all pairs; None if nothing.
    """

    positions: Tensor
    size: int
    views: Views
    tokens: Tensor | None
    training: TrainingConfig
    world: World

    def pairs(self, step: int) -> Tensor:
        """Return the positions (B,) of a step's pairs, of all processes."""
        batch = batch_at(step, len(self.positions), self.size, self.training.seed)
        return self.positions[batch]

    def stream(self, steps: range) -> Generator[Tensor, None, None]:
        """Yield this process's part of each step's batch, ready ahead of its use: images (B, 3, H,
        W), or their rows of `tokens`.
        """
        world, tokens = self.world, self.tokens
        parts = (world.part(self.pairs(step)) for step in steps)
        if tokens is not None:
            rows = (tokens[part] for part in parts)
            pinned = rows if world.device == "cpu" else map(Tensor.pin_memory, rows)
            # One batch is made while the one before it is in use.
            yield from on_device(read_ahead(pinned, 2), world.device)
            return
        batch_bytes = self.views[0, 0].nbytes * self.size // world.size
        workers = _fitting_workers(batch_bytes, self.training)
        numbers = (step + 1 for step in steps)
        yield from self.views.batches(parts, workers, world.device, numbers)


def _fitting_workers(batch_bytes: int, training: TrainingConfig) -> int:
    """Return how many workers a process may have: batches of all processes on this machine pass
    through its shared memory, and where that is full the workers are killed.
    """
    workers = training.worker_count
    if not workers or not SHARED_MEMORY.is_dir():
        return workers
    free = shutil.disk_usage(SHARED_MEMORY).free
    fitting = free // (batch_bytes * PREFETCHED * training.processes)
    if fitting < workers:
        logger.warning(
            f"{SHARED_MEMORY} has room for the batches of {fitting} of {workers} decoding "
            "processes; enlarge it (docker run --shm-size)"
        )
    return min(workers, fitting)


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


class ImageEncoder:
    """The image tower of a model in training.

    Attributes:
        tower: The tower as its steps run it; None if nothing of it trains.
        training: Its precision counts, and how many workers decode.
    """

    def __init__(self, model: Any, training: TrainingConfig, world: World) -> None:
        """Look at what trains; in bf16 frozen weights are copied."""
        self.model, self.training, self.world = model, training, world
        self.tower: ImageTower | None = None
        if trains_images(model):
            images = training.steps * training.batch_size
            self.tower = ImageTower(
                model,
                is_compiled=compiles(training.compile, world.device, images),
            )
            if training.precision == "bf16":
                self.tower.use_half(torch.bfloat16, frozen_only=True)
            if not self.tower.native:  # convolutions want their channels last; a ViT has one alone
                model.visual.to(memory_format=torch.channels_last)

    def __call__(self, batch: Tensor) -> Tensor:
        """Encode images (B, 3, H, W), or what `frozen` made of them, to unit vectors (B, D),
        float32.
        """
        is_frozen = batch.ndim < IMAGE_DIMENSIONS
        if self.tower is None:
            return batch if is_frozen else self.frozen(batch)
        with self.autocast():
            features = self.tower.features(batch) if is_frozen else self.tower(batch)
        return functional.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def frozen(self, images: Tensor) -> Tensor:
        """Compute what of images (B, 3, H, W) stays the same: tokens (B, T, W), or unit vectors (B,
        D) of a locked tower.

        These are in the precision of its weights, whatever the steps take: the same whether they
        are kept or not.
        """
        if self.tower is not None:
            return self.tower.tokens(images)
        with torch.autocast(self.world.device_type, enabled=False):
            features: Tensor = self.model.encode_image(images, normalize=True)
        return features.float()

    @torch.no_grad()
    def vectors(self, views: Views, positions: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Encode images as they are to unit vectors (B, D), on the CPU; every process encodes a
        part of them.

        Args:
            tokens: What is kept of every image (N, T, W) or (N, D), in place of decoding.
        """
        parts = positions[self.world.share(len(positions))].split(ENCODED_AT_ONCE)
        device = self.world.device
        # To start workers takes longer than to decode a few images.
        workers = self.training.worker_count if len(parts) > 1 else 0
        if tokens is None:
            encoded = [self(images) for images in views.batches(parts, workers, device)]
        else:
            encoded = [self(tokens[part].to(device)) for part in parts]
        return self.world.joined(torch.cat(encoded), len(positions))

    def autocast(self) -> torch.autocast:
        """Return the context in which steps compute in their precision."""
        dtype = DTYPES[self.training.precision]
        return torch.autocast(self.world.device_type, dtype, enabled=dtype != torch.float32)
