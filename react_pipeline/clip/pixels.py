"""Pixels: a model's preprocessing in two halves, of which the second runs on the device.

Bytes are a quarter of floats on the way from decoding processes to the device. Shapes: B images, H
x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, PILToTensor
from torchvision.transforms.functional import normalize


class Pixels:
    """Both halves; one after the other gives what the whole preprocessing gives, bit for bit on a
    CPU.
    """

    def __init__(self, preprocess: Any) -> None:
        """Split open_clip's preprocessing before its conversion to floats."""
        *geometry, _to_floats, to_normal = preprocess.transforms
        if not isinstance(to_normal, Normalize):
            raise TypeError(
                f"this preprocessing ends with {type(to_normal).__name__}, not with a normalisation"
            )
        self._prepare = Compose([*geometry, PILToTensor()])
        self._mean = torch.as_tensor(to_normal.mean).tolist()
        self._std = torch.as_tensor(to_normal.std).tolist()

    def __call__(self, image: Image.Image) -> Tensor:
        """Map an RGB image to its pixels (3, H, W), uint8: the first half."""
        return self._prepare(image)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W), uint8, to what the model takes, float32, on their device: the
        second half.
        """
        return normalize(pixels.float().div_(255), self._mean, self._std, inplace=True)
