"""Open-vocabulary segmentation without training: dense features against class vectors, over windows
of an image.

Belongs here: class vectors of several names, windows, the two refinements of MaskCLIP. Does not
belong here: the features (`tower`), what is published (`results`). Shapes: B windows on a grid h x
w, M names, C classes, D embedding dimension, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import normalize, pil_to_tensor

from react_pipeline.clip import LOGIT_SCALE, Clip, arithmetic, zero_shot_head
from react_pipeline.store import CorruptArtifact

from .sets import BACKGROUND, MapImages
from .settings import DenseConfig
from .tower import DenseTower

WINDOWS_AT_ONCE = 64


@dataclass(frozen=True)
class ClassVectors:
    """Unit vectors of all names of the classes; a class is as near as the nearest of its names.

    Attributes:
        head: (D, M).
        owner: Class id of each name, (M,).
        count: C.
    """

    head: Tensor
    owner: Tensor
    count: int

    @classmethod
    def of(cls, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> ClassVectors:
        """Encode the names; a class that is only called `background` has no vector."""
        named = [
            (name, number)
            for number, names in enumerate(class_names)
            for name in names.split(";")
            if name != BACKGROUND
        ]
        head = zero_shot_head(clip, [name for name, _ in named], templates).to(clip.device)
        owner = torch.tensor([number for _, number in named], device=clip.device)
        return cls(head, owner, len(class_names))

    def logits(self, features: Tensor) -> Tensor:
        """Return 100 times the cosine (..., C) of unit vectors (..., D); minus infinity for a class
        without vector.

        Raises:
            CorruptArtifact: If a vector is not finite.
        """
        cosines = LOGIT_SCALE * features @ self.head
        if not cosines.isfinite().all():
            raise CorruptArtifact(
                "the model gives features that are not finite; rematerialize its checkpoint"
            )
        empty = cosines.new_full((*cosines.shape[:-1], self.count), -torch.inf)
        return empty.scatter_reduce(-1, self.owner.expand_as(cosines), cosines, "amax")


def normalized(clip: Clip, image: Image.Image) -> Tensor:
    """Return the pixels (1, 3, H, W) as the model takes them, on its device."""
    pixels = pil_to_tensor(image).to(clip.device) / 255
    return normalize(pixels, clip.preprocess_cfg["mean"], clip.preprocess_cfg["std"])[None]


def resized(image: Image.Image, short_side: int, longest: int | None = None) -> Image.Image:
    """Return the image with this short side, or with this longest one if that is smaller; its ratio
    is kept.
    """
    scale = min(short_side / min(image.size), (longest or math.inf) / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def padded(pixels: Tensor, multiple: int) -> Tensor:
    """Pad normalized pixels (1, 3, H, W) with zeros, the mean colour, to the right and below: sides
    of whole patches.
    """
    tall, wide = (-side % multiple for side in pixels.shape[-2:])
    return functional.pad(pixels, (0, wide, 0, tall))


class Segmenter:
    """Gives every pixel of an image a class by its name alone."""

    def __init__(
        self, clip: Clip, images: MapImages, templates: Sequence[str], config: DenseConfig
    ) -> None:
        """Encode the class names.

        Raises:
            Unavailable: If the tower has no dense features.
        """
        self.clip = clip
        self.config = config
        self.tower = DenseTower(clip.model, config.attention)
        self.vectors = ClassVectors.of(clip, images.class_names, templates)
        self.background = images.background
        synonyms = self.background is not None and ";" in images.class_names[self.background]
        self.scores_background = synonyms or (
            self.background is not None and config.background_below > 0
        )

    @arithmetic()
    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> NDArray[np.int64]:
        """Return class ids (H, W) of an image."""
        pixels = normalized(self.clip, resized(image, self.config.short_side or self.tower.size))
        best, ids = self.shares(pixels, (image.height, image.width)).max(dim=0)
        if self.background is not None and self.config.background_below > 0:
            ids[best < self.config.background_below] = self.background
        return ids.cpu().numpy()

    def shares(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Return each class's share (C, *size) of every pixel of an image (1, 3, H, W).

        What is enlarged, and averaged over the windows that show a pixel, are the logits; with key
        smoothing the shares.
        """
        rows, columns = pixels.shape[-2:]
        pixels = padded(pixels, self.tower.stride)
        side = self.config.window // self.tower.stride * self.tower.stride or max(pixels.shape)
        tall, wide = (min(side, whole) for whole in pixels.shape[-2:])
        step = self.config.stride or side // 2
        places = [
            (slice(top, top + tall), slice(left, left + wide))
            for top in [*range(0, pixels.shape[-2] - tall, step), pixels.shape[-2] - tall]
            for left in [*range(0, pixels.shape[-1] - wide, step), pixels.shape[-1] - wide]
        ]
        cells = self._refine(*self._look(torch.cat([pixels[:, :, *place] for place in places])))
        total = pixels.new_zeros(self.vectors.count, *pixels.shape[-2:])
        times = pixels.new_zeros(pixels.shape[-2:])
        for place, window in zip(places, cells, strict=True):
            grid = window.permute(2, 0, 1)[None]
            total[:, *place] += functional.interpolate(grid, (tall, wide), mode="bilinear")[0]
            times[place] += 1
        mean = (total / times)[None, :, :rows, :columns]
        found = functional.interpolate(mean, size, mode="bilinear")[0]
        return found if self.config.key_smoothing else found.softmax(dim=0)

    def _look(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, h, w, C) and keys (B, h, w, W) of windows (B, 3, H, W)."""
        parts = [self.tower(part) for part in windows.split(WINDOWS_AT_ONCE)]
        features, keys = (torch.cat(part) for part in zip(*parts, strict=True))
        return self.vectors.logits(features), keys

    def _refine(self, logits: Tensor, keys: Tensor) -> Tensor:
        """Return logits, or with key smoothing shares, (B, h, w, C) of all windows of an image, by
        MaskCLIP's refinements in MaskCLIP's order.

        First prompt denoising: classes that no patch of the image is likely to show are left out.
        Then key smoothing, which so spreads the shares of the others alone.
        """
        highest = logits.softmax(dim=-1).amax(dim=(0, 1, 2))
        absent = (highest < self.config.prompt_denoising) & (highest < highest.max())
        present = logits.masked_fill(absent, -torch.inf)
        if self.config.key_smoothing:
            return smoothed(present.softmax(-1), keys, self.config.key_smoothing)
        # Minus infinity would spread when it is interpolated.
        return present.clamp(min=-10 * LOGIT_SCALE)


def smoothed(shares: Tensor, keys: Tensor, threshold: float) -> Tensor:
    """Smooth by keys: patches that are unsure take the shares of patches with like keys.

    Built otherwise than in MaskCLIP's code, where the keys are normalised over the image and the
    weights are not: here keys are unit vectors, negative cosines count as 0, and the weights of a
    patch sum to 1.

    Args:
        shares: (B, h, w, C).
        keys: Unit vectors (B, h, w, W).
        threshold: Highest share below which a patch is unsure.
    """
    flat = shares.flatten(1, 2)
    patches = keys.flatten(1, 2)
    weights = functional.normalize((patches @ patches.mT).clamp(min=0), p=1, dim=-1)
    unsure = flat.amax(dim=-1, keepdim=True) < threshold
    return torch.where(unsure, weights @ flat, flat).unflatten(1, shares.shape[1:3])
