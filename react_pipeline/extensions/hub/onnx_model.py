"""An exported model as ONNX: image tower, gated blocks included, and class vectors in one graph
that needs no torch; and the same with 8-bit weights.

Belongs here: writing the graphs and comparing what they give. Does not belong here: the tracing
itself (`embedding.write_graph`). Shapes: B pictures, C classes, D embedding dimension, H x W
pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor, nn

from react_pipeline.clip import HEAD_FILE, ClassHead, load
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import write_graph
from react_pipeline.project import Project
from react_pipeline.store import Artifact, ReactError
from react_pipeline.use import training_pairs

ONNX_FILE, INT8_FILE = "model.onnx", "model.int8.onnx"
OUTPUTS = ("vectors", "similarities")
MAX_DIFFERENCE = 1e-4
"""Between the outputs of both, of their largest value or of 1."""

CHECKED = 8
"""Images on which both are compared, in a batch of another size than the traced one."""

MAX_PAIRS = 1_000
"""Evenly spaced among those there are; the models in 8 bits and in full precision see each."""

_BATCH = 32

Facts = dict[str, Any]
"""What was measured of a format: it is in `export.json` and on the card."""


class _Model(nn.Module):
    def __init__(self, visual: nn.Module, head: ClassHead) -> None:
        super().__init__()
        self.visual = visual
        self.vectors, self.bias = map(nn.Buffer, head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = functional.normalize(self.visual(images), dim=-1)
        return vectors, ClassHead(self.vectors, self.bias).scores(vectors)


def write_onnx(folder: Path, target: Path) -> float:
    """Write the model and the class vectors of a folder as one graph.

    Its input `batch` (B, 3, H, W), float32, is what the model's preprocessing gives; its outputs
    are `vectors` (B, D), unit vectors, and `similarities` (B, C), the scores of the classes in
    their order.

    Returns:
        The largest difference from torch's outputs on the same images.

    Raises:
        ReactError: If the model cannot be converted, or its outputs differ.
    """
    clip = load(folder)
    model = _Model(clip.model.visual, ClassHead.read(folder / HEAD_FILE)).eval()
    shape = clip.preprocess(Image.new("RGB", (8, 8))).shape
    images = torch.randn(CHECKED, *shape, generator=torch.Generator().manual_seed(0))
    try:
        write_graph(model, images[:2], str(target), OUTPUTS, free=(0,))
        outputs = _session(target).run(list(OUTPUTS), {"batch": images.numpy()})
    except Exception as error:  # whatever a converter of any architecture raises
        raise ReactError(
            f"this model cannot be written as ONNX: {' '.join(str(error).split())[:300]}"
        ) from error
    with torch.inference_mode():
        exact = [output.numpy() for output in model(images)]
    difference = max(
        float(np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max()))
        for got, wanted in zip(outputs, exact, strict=True)
    )
    if not difference <= MAX_DIFFERENCE:
        raise ReactError(
            f"written as ONNX this model differs from torch's by {difference:g}; export without "
            "--format onnx"
        )
    return difference


def _session(file: Path) -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def _onnx(project: Project, checkpoint: Artifact, folder: Path) -> Facts:
    return {"difference": write_onnx(folder, folder / ONNX_FILE)}


def _int8(project: Project, checkpoint: Artifact, folder: Path) -> Facts:
    """Write the graph with the matrices as 8-bit integers, activations quantized as they come; and
    count the training pairs of which both graphs give the same class.
    """
    from onnxruntime.quantization import quantize_dynamic  # type: ignore[import-untyped]

    with TemporaryDirectory() as scratch:
        full = folder / ONNX_FILE
        if not full.exists():
            full = Path(scratch) / ONNX_FILE
            write_onnx(folder, full)
        logging.disable(logging.WARNING)  # it advises a preparation for models with fixed shapes
        try:
            # With 7 bits no processor saturates a sum of products (VPMADDUBSW): what is measured
            # here holds for every machine.
            quantize_dynamic(
                full, folder / INT8_FILE, ["MatMul"], per_channel=True, reduce_range=True
            )
        except Exception as error:  # whatever a converter of any architecture raises
            raise ReactError(
                f"this model cannot be written in 8 bits: {' '.join(str(error).split())[:300]}"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
        pairs = CollectedPairs(training_pairs(project, checkpoint))
        chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), MAX_PAIRS)).round().astype(int)
        preprocess = load(folder).preprocess
        sessions = _session(full), _session(folder / INT8_FILE)
        same = 0
        for part in np.split(chosen, range(_BATCH, len(chosen), _BATCH)):
            images = torch.stack([preprocess(pairs.decoded(int(place))) for place in part])
            exact, ours = (
                session.run([OUTPUTS[1]], {"batch": images.numpy()})[0].argmax(axis=1)
                for session in sessions
            )
            same += int((exact == ours).sum())
    return {"pairs": len(chosen), "agreement": same / len(chosen)}


FORMATS: Mapping[str, Callable[[Project, Artifact, Path], Facts]] = {
    "onnx": _onnx,
    "onnx-int8": _int8,
}
"""What writes each form of a model beside open_clip's, by the name that `--format` takes."""
