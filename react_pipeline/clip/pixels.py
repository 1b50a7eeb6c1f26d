"""Pixels: a model's preprocessing in two halves, of which the second runs on the device.

Bytes are a quarter of floats on the way from decoding processes to the device. Shapes: B images, H
x W pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, PILToTensor


class Pixels:
    """Both halves; one after the other gives what the whole preprocessing gives, bit for bit on a
    CPU.
    """

    def __init__(self, preprocess: Any) -> None:
        """Split open_clip's preprocessing before its conversion to floats."""
        *geometry, _to_floats, normalize = preprocess.transforms
        if not isinstance(normalize, Normalize):
            raise TypeError(
                f"this preprocessing ends with {type(normalize).__name__}, not with a normalisation"
            )
        self._prepare = Compose([*geometry, PILToTensor()])
        self._mean, self._std = (
            tuple(torch.as_tensor(value).tolist()) for value in (normalize.mean, normalize.std)
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """The first half: an RGB image to its pixels (3, H, W), uint8."""
        return self._prepare(image)

    def normalised(self, pixels: Tensor) -> Tensor:
        """The second half: pixels (B, 3, H, W), uint8, to what the model takes, float32, on their
        device.
        """
        mean, std = (_channels(values, pixels.device) for values in (self._mean, self._std))
        return pixels.float().div_(255).sub_(mean).div_(std)


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Copied to a device once: every copy of so few numbers would wait for the device.
    return torch.tensor(values, device=device).view(3, 1, 1)
