"""An exported model as ONNX: image tower, gated blocks included, and class vectors in one graph
that needs no torch.

Belongs here: writing the graph and holding it against torch. Does not belong here: the tracing
itself (`fused.fused_tower`). Shapes: B pictures, C classes, D embedding dimension, H x W
pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from react_pipeline.clip import HEAD_FILE, ClassHead, load
from react_pipeline.embedding import write_graph
from react_pipeline.store import ReactError

ONNX_FILE = "model.onnx"
OUTPUTS = ("vectors", "similarities")
MAX_DIFFERENCE = 1e-4
"""Between the outputs of both, of their largest value or of 1."""

CHECKED = 8
"""Pictures on which both are compared, in a batch of another size than the traced one."""


class _Model(nn.Module):
    def __init__(self, visual: nn.Module, head: ClassHead) -> None:
        super().__init__()
        self.visual = visual
        self.vectors, self.bias = map(nn.Buffer, head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = functional.normalize(self.visual(images), dim=-1)
        return vectors, ClassHead(self.vectors, self.bias).scores(vectors)


def opened(file: Path) -> Any:
    """A session of onnxruntime, on the processor."""
    import onnxruntime  # type: ignore[import-untyped]

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def write_onnx(folder: Path, target: Path) -> float:
    """Write the model and the class vectors of a folder as one graph.

    Its input `batch` (B, 3, H, W), float32, is what the model's preprocessing gives; its outputs
    are `vectors` (B, D), unit vectors, and `similarities` (B, C), the scores of the classes in
    their order.

    Returns:
        The largest difference from torch's outputs on the same pictures.

    Raises:
        ReactError: If the model cannot be converted, or its outputs differ.
    """
    clip = load(folder)
    model = _Model(clip.model.visual, ClassHead.read(folder / HEAD_FILE)).eval()
    images = torch.stack([clip.preprocess(picture) for picture in random_pictures(CHECKED)])
    try:
        write_graph(model, images[:2], str(target), OUTPUTS, free=(0,))
        outputs = opened(target).run(list(OUTPUTS), {"batch": images.numpy()})
    except Exception as error:  # whatever a converter of any architecture raises
        raise ReactError(
            f"this model cannot be written as ONNX: {' '.join(str(error).split())[:300]}"
        ) from error
    with torch.inference_mode():
        expected = [output.numpy() for output in model(images)]
    difference = max(map(largest_difference, outputs, expected))
    if not difference <= MAX_DIFFERENCE:
        raise ReactError(
            f"written as ONNX this model differs from torch's by {difference:g}; export without "
            "--format onnx"
        )
    return difference


def largest_difference(ours: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Between two outputs, of the largest value or of 1."""
    return float(np.abs(ours - exact).max() / max(1.0, np.abs(exact).max()))


def random_pictures(count: int) -> list[Image.Image]:
    """Pictures of random colours in large and small squares."""
    chance = np.random.default_rng(0)
    return [
        Image.fromarray(
            chance.integers(0, 256, (2 + 3 * number, 3 + 2 * number, 3), dtype=np.uint8)
        ).resize((300, 240))
        for number in range(count)
    ]
