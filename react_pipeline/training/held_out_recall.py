"""Recall of the held-out pairs by a model in training: before, after, and while it runs.

Does not belong here: which pairs are held out and how recall is counted (`held_out`), what a fall of it means
(`guards`). Shapes: B pairs, D embedding dimension.
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
class HeldOutRecall:
    """What encodes the pairs, in the way in which the training does.

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
    texts: TrainingTexts
    views: Views
    training: TrainingConfig
    world: World

    @torch.no_grad()
    def of(self, positions: Tensor) -> dict[str, float]:
        """Image-text recall (`held_out.image_text_recall`) of the pairs at these positions; empty if there is none."""
        if not len(positions):
            return {}
        images = torch.cat([self._image_vectors(part) for part in positions.split(ENCODED_AT_ONCE)])
        captions = self.texts.caption_ids(positions)
        texts = torch.cat([self.texts.vectors(part).cpu() for part in captions.split(ENCODED_AT_ONCE)])
        return image_text_recall(images, texts, captions)

    def _image_vectors(self, positions: Tensor) -> Tensor:
        """Unit vectors (B, D) of images as they are, on the CPU."""
        device = self.world.device
        if self.tower is None:
            if self.tokens is not None:
                return self.tokens[positions, 0]
            return locked_image_features(self.model, self._images(positions), device).cpu()
        dtype = DTYPES[self.training.precision]
        with torch.autocast(device.partition(":")[0], dtype, enabled=dtype != torch.float32):
            if self.tokens is not None:
                features = self.tower.features(self.tokens[positions, 0].to(device))
            else:
                features = self.tower(self._images(positions).to(device))
        return functional.normalize(features.float(), dim=-1).cpu()

    def _images(self, positions: Tensor) -> Tensor:
        return torch.stack([self.views[position, 0] for position in positions.tolist()])
