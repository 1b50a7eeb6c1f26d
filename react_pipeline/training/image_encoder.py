"""Images as a training encodes them: from pixels or from what is kept of them, with a graph or
without.

Does not belong here: the tower (`clip.tower`), a step (`training.step`). Shapes: B images, T
tokens, W width, D embedding dimension.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from react_pipeline.clip import DTYPES, ImageTower, compiles, trains_images
from react_pipeline.settings import TrainingConfig
from react_pipeline.training.data import Views
from react_pipeline.training.world import World

ENCODED_AT_ONCE = 128

IMAGE_DIMENSIONS = 4
"""Dimensions of a batch of images; frozen tokens or vectors have fewer."""


@dataclass(frozen=True)
class ImageEncoder:
    """The image tower of a model in training.

    Attributes:
        tower: None where the image tower does not train.
        training: Its precision counts, and how many workers decode.
    """

    model: Any
    tower: ImageTower | None
    training: TrainingConfig
    world: World

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


def image_tower(model: Any, training: TrainingConfig, device: str) -> ImageTower | None:
    """Return the image tower as its steps run it; None if nothing of it trains."""
    if not trains_images(model):
        return None
    tower = ImageTower(
        model,
        activation_checkpointing=training.activation_checkpointing,
        is_compiled=compiles(training.compile, device, training.steps * training.batch_size),
    )
    if training.precision == "bf16":
        tower.use_bf16(device)
    if not tower.native:  # convolutions want their channels last; a plain ViT has one alone
        model.visual.to(memory_format=torch.channels_last)
    return tower
