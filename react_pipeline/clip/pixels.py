"""A model's preprocessing in two halves. Decoding processes import this module alone of the model.

Does not belong here: decoding (`corpus`), augmentation (`training`). Shapes: B images, H x W
pixels.
"""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, PILToTensor
from torchvision.transforms.functional import normalize


class Pixels:
    """A model's preprocessing in two halves, of which the second runs on the device; one after the
    other gives what the whole gives, bit for bit on a CPU.

    Bytes are a quarter of floats on the way from decoding processes to the device.
    """

    def __init__(self, preprocess: Any) -> None:
        """Split open_clip's preprocessing before its conversion to floats."""
        *geometry, _to_floats, to_normal = preprocess.transforms
        # Images are RGB, and a process that only decodes need not import open_clip for this.
        geometry = [step for step in geometry if type(step).__name__ != "MaybeConvertMode"]
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
