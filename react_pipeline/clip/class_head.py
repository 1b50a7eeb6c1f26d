"""ClassHead: the linear classifier on image vectors, and its form on disk.

Does not belong here: which head a checkpoint has (`classifier`), fitting one (`training`). Shapes:
N images, C classes, D embedding dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class ClassHead(NamedTuple):
    """Class vectors, and a bias per class.

    Attributes:
        vectors: Of the classes (D, C), float32, on the CPU.
        bias: Of the classes (C,), or 0 for a head without one.
    """

    vectors: Tensor
    bias: Tensor = torch.zeros(())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the head to use from a file that `write` wrote."""
        tensors = load_file(file)
        return cls(tensors["head"].float(), tensors.get("bias", torch.zeros(())).float())

    def write(self, file: Path) -> None:
        """Write it for `read`."""
        tensors = {"head": self.vectors, "bias": self.bias}
        save_file({name: one.contiguous() for name, one in tensors.items() if one.dim()}, file)

    def scores(self, images: Tensor) -> Tensor:
        """Logits / 100 (N, C) of unit vectors (N, D): cosines where the class vectors are unit
        vectors without bias.
        """
        return images @ self.vectors + self.bias

    def lerp(self, other: ClassHead, fraction: float) -> ClassHead:
        """Return the head whose scores are (1 - fraction) of these and fraction of the other's."""
        return ClassHead(
            torch.lerp(self.vectors, other.vectors, fraction),
            (1 - fraction) * self.bias + fraction * other.bias,
        )
