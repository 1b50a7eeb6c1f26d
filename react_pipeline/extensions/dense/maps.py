"""Open-vocabulary segmentation without training, as MaskCLIP (arXiv 2112.01071): dense features
against class vectors, and two refinements.

Dense features are a unit vector for every patch of an image, in the joint space. In the last host
block each patch keeps its own value; all other blocks, gated ones too, run as trained. Does not
belong here: what is published (`results`). Shapes: B images of H x W pixels, T tokens of width W on
a grid h x w, C classes, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import normalize, pil_to_tensor

from react_pipeline.clip import LOGIT_SCALE, Clip, ImageTower, arithmetic, zero_shot_head
from react_pipeline.labelled import Unavailable
from react_pipeline.store import CorruptArtifact

from .settings import DenseConfig


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


class DenseTower:
    """A vision transformer that gives a vector for every patch of images of any size. Its weights
    are shared and not changed.

    Attributes:
        size: Side of the images that the model was trained on, in pixels.
        stride: Pixels of a patch; sides must be multiples of it.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look at the tower.

        Raises:
            Unavailable: If it is no vision transformer of open_clip.
        """
        visual: Any = model.visual
        self.visual = visual
        self.tower = ImageTower(model)
        if not self.tower.native or getattr(visual, "attn_pool", None) is not None:
            raise Unavailable(f"{type(visual).__name__}: dense features need a ViT of open_clip")
        size = visual.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.stride = int(visual.patch_size[0])

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to unit vectors (B, h, w, D) and unit keys of the last block (B,
        h, w, W), which go through the output projection as in MaskCLIP.
        """
        tokens, keys = self._last_block(images)
        tokens = self.visual.ln_post(tokens)
        vectors = tokens if self.visual.proj is None else tokens @ self.visual.proj
        rows = images.shape[-2] // self.stride
        features, keys = (
            functional.normalize(part[:, 1:].unflatten(1, (rows, -1)).float(), dim=-1)
            for part in (vectors, keys)
        )
        return features, keys

    def _last_block(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to tokens after the last block and its projected keys, both (B, T, W)."""
        last = len(self.tower.blocks) - 1
        with self._positions_for(tuple(side // self.stride for side in images.shape[-2:])):
            x = self.tower.entering(last, images)
        host: Any = self.tower.blocks[last]
        if hasattr(host, "gated_attn_block"):
            x = host.gated_attn_block(x)
        attn = host.attn
        packed = functional.linear(host.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        _, key, value = packed.chunk(3, dim=-1)
        x = x + host.ls_1(attn.out_proj(value))
        return x + host.ls_2(host.mlp(host.ln_2(x))), attn.out_proj(key)

    @contextmanager
    def _positions_for(self, grid: tuple[int, ...]) -> Iterator[None]:
        """Let the tower have position embeddings for this grid: its own, resized bicubically."""
        visual = self.visual
        own = visual.positional_embedding
        if grid != tuple(visual.grid_size):
            square = own[1:].detach().float().T.unflatten(1, tuple(visual.grid_size))[None]
            resized = functional.interpolate(square, grid, mode="bicubic")[0].flatten(1).T
            positions = torch.cat([own[:1].detach(), resized.to(own.dtype)])
            visual.positional_embedding = nn.Parameter(positions, requires_grad=False)
        try:
            yield
        finally:
            visual.positional_embedding = own


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
