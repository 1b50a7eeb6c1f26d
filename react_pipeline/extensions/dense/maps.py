"""Open-vocabulary segmentation without training: dense features against class vectors.

Belongs here: the two refinements of MaskCLIP. Does not belong here: the features (`tower`), what is
published (`results`). Shapes: a grid h x w of patches, C classes, D embedding dimension, H x W
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import normalize, pil_to_tensor

from react_pipeline.clip import LOGIT_SCALE, Clip, arithmetic, zero_shot_head
from react_pipeline.store import CorruptArtifact

from .settings import DenseConfig
from .tower import DenseTower


def class_logits(features: Tensor, head: Tensor) -> Tensor:
    """Return 100 times the cosine (..., C) of unit vectors (..., D) with class vectors (D, C).

    Raises:
        CorruptArtifact: If a vector is not finite.
    """
    logits = LOGIT_SCALE * features @ head
    if not logits.isfinite().all():
        raise CorruptArtifact(
            "the model gives features that are not finite; rematerialize its checkpoint"
        )
    return logits


def normalized(clip: Clip, image: Image.Image) -> Tensor:
    """Return the pixels (1, 3, H, W) as the model takes them, on its device."""
    pixels = pil_to_tensor(image).to(clip.device) / 255
    return normalize(pixels, clip.preprocess_cfg["mean"], clip.preprocess_cfg["std"])[None]


def resized(image: Image.Image, short_side: int) -> Image.Image:
    """Return the image with this short side; its ratio is kept."""
    scale = short_side / min(image.size)
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
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str], config: DenseConfig
    ) -> None:
        """Encode the class names.

        Raises:
            Unavailable: If the tower has no dense features.
        """
        self.clip = clip
        self.config = config
        self.tower = DenseTower(clip.model)
        self.head = zero_shot_head(clip, class_names, templates).to(clip.device)

    @arithmetic()
    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> NDArray[np.int64]:
        """Return class ids (H, W) of an image. Logits are enlarged; with key smoothing, shares."""
        pixels = normalized(self.clip, resized(image, self.config.short_side or self.tower.size))
        rows, columns = pixels.shape[-2:]
        whole = padded(pixels, self.tower.stride)
        features, keys = self.tower(whole)
        cells = self.refine(class_logits(features, self.head), keys).permute(0, 3, 1, 2)
        found = functional.interpolate(cells, whole.shape[-2:], mode="bilinear")
        size = image.height, image.width
        found = functional.interpolate(found[:, :, :rows, :columns], size, mode="bilinear")
        return found[0].argmax(dim=0).cpu().numpy()

    def refine(self, logits: Tensor, keys: Tensor) -> Tensor:
        """Return logits, or with key smoothing shares, (1, h, w, C) of an image by MaskCLIP's
        refinements in MaskCLIP's order; keys are (1, h, w, W).

        First prompt denoising: classes that no patch is likely to show are left out. Then key
        smoothing, which so spreads the shares of the others alone.
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
        shares: (1, h, w, C).
        keys: Unit vectors (1, h, w, W).
        threshold: Highest share below which a patch is unsure.
    """
    flat = shares.flatten(1, 2)
    patches = keys.flatten(1, 2)
    weights = functional.normalize((patches @ patches.mT).clamp(min=0), p=1, dim=-1)
    unsure = flat.amax(dim=-1, keepdim=True) < threshold
    return torch.where(unsure, weights @ flat, flat).unflatten(1, shares.shape[1:3])
