"""Augmentation: random changes of a training image, as a function of the image and a seed alone.

Shapes: H x W pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional

Preprocess = Callable[[Image.Image], Tensor]
"""Maps an RGB image to its pixels (3, H, W), uint8."""

Augment = Callable[[Image.Image, int], Tensor]
"""Maps an image and a seed to pixels (3, H, W), uint8."""

DECODED = 2
"""Times the model's size, which a part of a JPEG has at least where the image is decoded at a
fraction of its size.
"""


def augmentation(kind: str, preprocess: Preprocess, preprocess_cfg: dict[str, Any]) -> Augment:
    """Return the augmentation of training images.

    Args:
        kind: `timm`: the paper's recipe (random crop of 8 to 100% of the area, flip, RandAugment,
            erasing); `mild`: small turns, shifts and changes of colour, for drawings.
        preprocess: The model's own, without augmentation (`clip.Pixels`).
        preprocess_cfg: Its size, mean, std and interpolation.
    """
    # All of them can be pickled: decoding processes are spawned where the training process itself
    # was.
    return partial(_mildly_changed, preprocess) if kind == "mild" else _Timm(preprocess_cfg)


class _Timm:
    """The augmentation REACT trains with, by timm's own transforms."""

    def __init__(self, preprocess_cfg: dict[str, Any]) -> None:
        from timm.data import create_transform

        size = preprocess_cfg["size"]
        interpolation = preprocess_cfg.get("interpolation", "bicubic")
        self._transform = create_transform(
            input_size=(3, size, size) if isinstance(size, int) else (3, *size),
            is_training=True,
            interpolation=interpolation,
            auto_augment="rand-m9-mstd0.5-inc1",
            re_prob=0.25,
            re_mode="pixel",
            mean=preprocess_cfg["mean"],
            std=preprocess_cfg["std"],
        )
        self._crop, *after = self._transform.transforms
        self._transform.transforms = after
        self._mode = "bilinear" if interpolation == "bilinear" else "bicubic"
        self._mean = torch.tensor(preprocess_cfg["mean"]).view(3, 1, 1)
        self._std = torch.tensor(preprocess_cfg["std"]).view(3, 1, 1)
        for transform in self._transform.transforms:
            for operation in getattr(transform, "ops", ()):
                if operation.name == "PosterizeIncreasing":
                    # At full strength timm asks Pillow to keep no bit of a colour, which Pillow 13
                    # refuses.
                    operation.level_fn = partial(_one_at_least, operation.level_fn)

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        # timm draws from all three; saved and put back, so that nothing else in the process changes
        # with them.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # `torch.manual_seed` also keeps a traceback for GPUs.
        torch.default_generator.manual_seed(seed)
        try:
            normalised = self._transform(self._cropped(image))
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
        # Back to pixels, which are exact, but for the noise that was put in: it is cut at black and
        # white.
        pixels = normalised.mul_(self._std).add_(self._mean).mul_(255)
        return pixels.round_().clamp_(0, 255).to(torch.uint8)

    def _cropped(self, image: Image.Image) -> Image.Image:
        """Crop a random part in the model's size, drawn as timm does, from a JPEG that is decoded
        no larger than it needs.
        """
        top, left, height, width = self._crop.get_params(image, self._crop.scale, self._crop.ratio)
        whole = image.size
        high, wide = self._crop.size
        # Pillow keeps to this size or above, and ignores what is not a JPEG or is decoded already.
        least = -(-DECODED * wide * whole[0] // width), -(-DECODED * high * whole[1] // height)
        image.draft("RGB", least)
        across = image.width / whole[0]
        down = image.height / whole[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        part = np.array(image.crop(tuple(map(round, box))))
        pixels = torch.from_numpy(part)[None].permute(0, 3, 1, 2)
        # As Pillow resizes, up to rounding, but with the processor's vector instructions.
        small = functional.interpolate(pixels, (high, wide), mode=self._mode, antialias=True)
        return Image.fromarray(small[0].permute(1, 2, 0).numpy())


def _one_at_least(level: Callable[..., tuple[int]], strength: float, parameters: Any) -> tuple[int]:
    return (max(1, level(strength, parameters)[0]),)


def _mildly_changed(preprocess: Preprocess, image: Image.Image, seed: int) -> Tensor:
    return preprocess(turn_and_recolour(image, np.random.default_rng(seed)))


def turn_and_recolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Flip, rotate, scale, shift and recolour an image a little, on a white ground; the same `rng`
    gives the same.
    """
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = math.radians(rng.uniform(-15, 15))
    scale = 1 / rng.uniform(0.75, 1.1)
    shift = rng.uniform(-0.08, 0.08, size=2) * image.size
    cosine = scale * math.cos(angle)
    sine = scale * math.sin(angle)
    centre_x = image.width / 2
    centre_y = image.height / 2
    matrix = (
        cosine,
        sine,
        centre_x - cosine * (centre_x + shift[0]) - sine * (centre_y + shift[1]),
        -sine,
        cosine,
        centre_y + sine * (centre_x + shift[0]) - cosine * (centre_y + shift[1]),
    )
    white = (255, 255, 255)
    image = image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=white
    )
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(rng.uniform(0.7, 1.3))
    return image
