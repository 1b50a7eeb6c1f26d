"""Augmentation: random changes of a training image, as a function of the image and a seed alone.

Shapes: H x W pixels.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

DECODED = 2
"""Times the model's size, which a part of a JPEG has at least where the image is decoded at a
fraction of its size.
"""


class Augmentation:
    """The augmentation REACT trains with, by timm's own transforms: random crop of 8 to 100% of the
    area, flip, RandAugment, erasing. It can be pickled: decoding processes may be spawned.
    """

    def __init__(self, preprocess_cfg: dict[str, Any]) -> None:
        """Take over size, mean, std and interpolation of a model's preprocessing."""
        from timm.data import create_transform
        from torchvision.transforms import Compose

        size = preprocess_cfg["size"]
        interpolation = preprocess_cfg.get("interpolation", "bicubic")
        self._mode = "bilinear" if interpolation == "bilinear" else "bicubic"
        self._crop, *after = create_transform(
            input_size=(3, size, size) if isinstance(size, int) else (3, *size),
            is_training=True,
            interpolation=interpolation,
            auto_augment="rand-m9-mstd0.5-inc1",
            re_prob=0.25,
            re_mode="pixel",
            mean=preprocess_cfg["mean"],
            std=preprocess_cfg["std"],
        ).transforms
        self._after = Compose(after)
        self._mean, self._std = (
            torch.tensor(preprocess_cfg[name]).view(3, 1, 1) for name in ("mean", "std")
        )
        for operation in (each for one in after for each in getattr(one, "ops", ())):
            if operation.name == "PosterizeIncreasing":
                # At full strength timm asks Pillow to keep no bit of a colour, which Pillow 13
                # refuses.
                operation.level_fn = partial(_one_at_least, operation.level_fn)

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """Map an RGB image to pixels (3, H, W), uint8.

        It draws from the generators of Python, NumPy and torch, which have their states again
        afterwards.
        """
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # `torch.manual_seed` also keeps a traceback for GPUs.
        torch.default_generator.manual_seed(seed)
        try:
            normalised = self._after(self._cropped(image))
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
        high, wide = self._crop.size
        whole = image.size
        # Pillow keeps to this size or above, and ignores what is not a JPEG or is decoded already.
        least = -(-DECODED * wide * whole[0] // width), -(-DECODED * high * whole[1] // height)
        image.draft("RGB", least)
        across, down = image.width / whole[0], image.height / whole[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        part = torch.from_numpy(np.array(image.crop(tuple(map(round, box)))))
        # As Pillow resizes, up to rounding, but with the processor's vector instructions.
        small = functional.interpolate(
            part[None].permute(0, 3, 1, 2), (high, wide), mode=self._mode, antialias=True
        )
        return Image.fromarray(small[0].permute(1, 2, 0).numpy())


def _one_at_least(level: Callable[..., tuple[int]], strength: float, parameters: Any) -> tuple[int]:
    return (max(1, level(strength, parameters)[0]),)
