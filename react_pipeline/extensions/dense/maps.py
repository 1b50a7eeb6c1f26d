"""Open-vocabulary segmentation without training: dense features against class vectors, over windows
of an image.

Belongs here: class vectors of several names, windows, the two refinements of MaskCLIP. Does not
belong here: the features (`react_pipeline.clip`), what is published (`dense_results`). Shapes: B
windows on a grid h x w, M names, C classes, D embedding dimension, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from react_pipeline.clip import LOGIT_SCALE, Clip, arithmetic, zero_shot_head
from react_pipeline.store import CorruptArtifact

from .sets import BACKGROUND, DenseImages
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
        return cls(
            head,
            torch.tensor([number for _, number in named], device=clip.device),
            len(class_names),
        )

    def logits(self, features: Tensor) -> Tensor:
        """100 times the cosine (..., C) of unit vectors (..., D); minus infinity for a class
        without vector.
        """
        cosines = LOGIT_SCALE * features @ self.head
        empty = cosines.new_full((*cosines.shape[:-1], self.count), -torch.inf)
        return empty.scatter_reduce(-1, self.owner.expand_as(cosines), cosines, "amax")


def normalized(clip: Clip, image: Image.Image) -> Tensor:
    """The pixels (1, 3, H, W) as the model takes them, on its device."""
    pixels = torch.from_numpy(np.array(image)).to(clip.device).permute(2, 0, 1).float() / 255
    mean, std = (
        torch.tensor(clip.preprocess_cfg[name], device=clip.device) for name in ("mean", "std")
    )
    return ((pixels - mean[:, None, None]) / std[:, None, None])[None]


def resized(image: Image.Image, short_side: int, longest: int | None = None) -> Image.Image:
    """The image with this short side, or with this longest one if that is smaller; its ratio is
    kept.
    """
    scale = short_side / min(image.size)
    if longest and max(image.size) * scale > longest:
        scale = longest / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def padded(pixels: Tensor, multiple: int) -> Tensor:
    """Normalized pixels (1, 3, H, W) with zeros, the mean colour, to the right and below: sides of
    whole patches.
    """
    tall, wide = (-side % multiple for side in pixels.shape[-2:])
    return functional.pad(pixels, (0, wide, 0, tall))


class Segmenter:
    """Gives every pixel of an image a class by its name alone."""

    def __init__(
        self, clip: Clip, images: DenseImages, templates: Sequence[str], config: DenseConfig
    ) -> None:
        """Encode the class names.

        Raises:
            InputError: If the tower has no dense features.
        """
        self.clip = clip
        self.config = config
        self.tower = DenseTower(clip.model, config.attention, config.residual, config.mlp)
        self.vectors = ClassVectors.of(clip, images.class_names, templates)
        self.background = images.background
        synonyms = self.background is not None and ";" in images.class_names[self.background]
        self.scores_background = synonyms or (
            self.background is not None and config.background_below > 0
        )

    @arithmetic()
    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> NDArray[np.int64]:
        """Class ids (H, W) of an image."""
        pixels = normalized(self.clip, resized(image, self.config.short_side or self.tower.size))
        shares = self._logits(pixels, (image.height, image.width)).softmax(dim=0)
        best, ids = shares.max(dim=0)
        if self.background is not None and self.config.background_below > 0:
            ids[best < self.config.background_below] = self.background
        return ids.cpu().numpy()

    def _logits(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Mean over the windows that show a pixel, (C, *size), of pixels (1, 3, H, W)."""
        shown = pixels.shape[-2:]
        pixels = padded(pixels, self.tower.stride)
        window = self.config.window or (0 if self.tower.any_size else self.tower.size)
        side = window // self.tower.stride * self.tower.stride or max(pixels.shape)
        parts = [min(side, whole) for whole in pixels.shape[-2:]]
        step = self.config.stride or side // 2
        starts = []
        for whole, part in zip(pixels.shape[-2:], parts, strict=True):
            starts.append([*range(0, whole - part, step), whole - part])
        tall, wide = parts
        windows = [
            pixels[0, :, top : top + tall, left : left + wide] for top, left in product(*starts)
        ]
        cells = [
            self._window(torch.stack(windows[first : first + WINDOWS_AT_ONCE]))
            for first in range(0, len(windows), WINDOWS_AT_ONCE)
        ]
        grid = self._refined(cells).unflatten(0, [len(of_side) for of_side in starts])
        sides = zip(starts, parts, grid.shape[2:4], pixels.shape[2:], shown, size, strict=True)
        rows, columns = (placed(*side).to(grid.device) for side in sides)
        return torch.einsum("xmw,ymwc->cyx", columns, torch.einsum("ynh,nmhwc->ymwc", rows, grid))

    def _window(self, windows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, h, w, C) of windows (B, 3, H, W), and the keys (B, h, w, W) if they are to be
        smoothed with.
        """
        features, keys = self.tower(windows)
        logits = self.vectors.logits(features)
        if not logits.isfinite().any(dim=-1).all():
            raise CorruptArtifact(
                "the model gives dense features that are not finite; rematerialize its checkpoint"
            )
        return logits, keys if self.config.key_smoothing else None

    def _refined(self, cells: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Logits (N, h, w, C) of all windows of an image, by MaskCLIP's refinements in MaskCLIP's
        order.

        First prompt denoising: classes that no patch of the image is likely to show are left out.
        Then key smoothing, which so spreads the shares of the others alone.
        """
        shares = [logits.softmax(dim=-1).amax(dim=(0, 1, 2)) for logits, _ in cells]
        highest = torch.stack(shares).amax(dim=0)
        absent = (highest < self.config.prompt_denoising) & (highest < highest.max())
        refined = []
        for logits, keys in cells:
            present = logits.masked_fill(absent, -torch.inf)
            if keys is not None:
                present = smoothed(present, keys, self.config.key_smoothing)
            refined.append(present)
        # Minus infinity would spread when it is interpolated.
        return torch.cat(refined).clamp(min=-10 * LOGIT_SCALE)


def placed(
    starts: Sequence[int], part: int, cells: int, whole: int, shown: int, size: int
) -> Tensor:
    """What the cells of windows add to each pixel of one side, (size, windows, cells).

    Enlarging windows bilinearly, the mean of those that overlap, and the fit to the image are
    linear and the same along each side. Windows that are enlarged one by one would cost more than
    the tower.

    Args:
        starts: Of the windows, in pixels.
        part: Pixels of a window.
        cells: Patches of a window.
        whole: Pixels of what the windows cover.
        shown: Those of them that are the image; the rest pads it.
        size: Pixels of the image.
    """
    shares = torch.zeros(len(starts), cells, whole)
    for number, start in enumerate(starts):
        shares[number, :, start : start + part] = functional.interpolate(
            torch.eye(cells)[None], part, mode="linear"
        )
    mean = (shares / shares.sum(dim=(0, 1)))[..., :shown]
    return functional.interpolate(mean, size, mode="linear").permute(2, 0, 1)


def smoothed(logits: Tensor, keys: Tensor, threshold: float) -> Tensor:
    """Key smoothing: patches that are unsure take the shares of patches with like keys.

    Built otherwise than in MaskCLIP's code, where the keys are normalised over the image and the
    weights are not: here keys are unit vectors, negative cosines count as 0, and the weights of a
    patch sum to 1.

    Args:
        logits: (B, h, w, C).
        keys: Unit vectors (B, h, w, W).
        threshold: Highest share below which a patch is unsure.

    Returns:
        Logarithms of shares (B, h, w, C).
    """
    logs = logits.log_softmax(dim=-1).flatten(1, 2)
    flat = keys.flatten(1, 2)
    shares = logs.exp()
    weights = functional.normalize((flat @ flat.mT).clamp(min=0), p=1, dim=-1)
    unsure = shares.amax(dim=-1, keepdim=True) < threshold
    return torch.where(unsure, (weights @ shares).log(), logs).unflatten(1, logits.shape[1:3])
