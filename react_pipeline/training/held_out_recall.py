"""Recall of the held-out pairs by a model in training: before, after, and while it runs.

Belongs here too: encoding images with such a model. Does not belong here: which pairs are held out and how recall is
counted (`held_out`), what a fall of it means (`guards`). Shapes: B pairs, D embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from react_pipeline.clip import DTYPES, ImageTower
from react_pipeline.settings import TrainingConfig
from react_pipeline.training.data import Views
from react_pipeline.training.distributed import World
from react_pipeline.training.held_out import image_text_recall
from react_pipeline.training.step import locked_image_features
from react_pipeline.training.texts import TrainingTexts

ENCODED_AT_ONCE = 128


@dataclass(frozen=True)
class ImageVectors:
    """What encodes images, in the way in which the training does.

    Attributes:
        model: Encodes images where neither tower nor tokens are there.
        tower: Of a method that trains images; else None.
        tokens: What is kept of every image (`kept_tokens`), or None.
        views: Images as they are, view 0.
        training: Its precision counts.
    """

    model: Any
    tower: ImageTower | None
    tokens: Tensor | None
    views: Views
    training: TrainingConfig
    world: World

    @torch.no_grad()
    def of(self, positions: Tensor) -> Tensor:
        """Unit vectors (B, D) of images as they are, on the CPU; every process encodes a part of them."""
        return self.world.shared(len(positions), lambda mine: self._vectors(positions[mine]))

    def _vectors(self, positions: Tensor) -> Tensor:
        if self.tower is None and self.tokens is not None:
            return self.tokens[positions, 0]
        parts, device = positions.split(ENCODED_AT_ONCE), self.world.device
        if self.tokens is not None:
            return torch.cat([self._encoded(self.tokens[part, 0].to(device)) for part in parts])
        draws = [[(position, 0) for position in part.tolist()] for part in parts]
        # To start workers takes longer than to decode a few images.
        workers = self.training.workers if len(parts) > 1 else 0
        return torch.cat([self._encoded(images) for images in self.views.batches(draws, workers, device)])

    def _encoded(self, batch: Tensor) -> Tensor:
        """Unit vectors (B, D) of images (B, 3, H, W) or kept tokens (B, T, W)."""
        if self.tower is None:
            return locked_image_features(self.model, batch, self.world.device)
        dtype = DTYPES[self.training.precision]
        with torch.autocast(self.world.device.partition(":")[0], dtype, enabled=dtype != torch.float32):
            features = self.tower(batch) if self.tokens is None else self.tower.features(batch)
        return functional.normalize(features.float(), dim=-1)


@torch.no_grad()
def held_out_recall(images: ImageVectors, texts: TrainingTexts, positions: Tensor) -> dict[str, float]:
    """Image-text recall (`held_out.image_text_recall`) of the pairs at these positions; empty if there is none."""
    if not len(positions):
        return {}
    captions = texts.caption_ids(positions)
    vectors = torch.cat([texts.vectors(part).cpu() for part in captions.split(ENCODED_AT_ONCE)])
    return image_text_recall(images.of(positions), vectors, captions)
