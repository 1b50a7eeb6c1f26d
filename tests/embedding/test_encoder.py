"""The encoder of the embedding against the model's own vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.drawings import draw
from torch import Tensor

from react_pipeline.clip.model import Clip, load
from react_pipeline.embedding.encoder import Encoder

CAPTIONS = [
    "a red circle",
    "a",
    "a drawing of a very large blue square beside a small green one",
    "a red circle",
    "x y",
]


@pytest.fixture(scope="module")
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


def cosines(ours: Tensor, exact: Tensor) -> Tensor:
    return (ours.double() * exact.double()).sum(1) / (
        ours.double().norm(dim=1) * exact.double().norm(dim=1)
    )


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", 0.999999), ("bf16", 0.999)])
def test_vectors_are_the_models_own_in_the_order_given(
    clip: Clip, precision: str, wanted: float
) -> None:
    encoder = Encoder(clip, precision)
    drawn = [draw("circle", "red", seed) for seed in range(40)]
    images = encoder.images(torch.stack([encoder.to_tensor(image) for image in drawn]))
    exact = clip.encode_images(torch.stack([clip.preprocess(image) for image in drawn]))
    assert images.dtype == torch.float32 and cosines(images, exact).min() > wanted
    texts = encoder.texts(clip.tokenizer(CAPTIONS))
    assert cosines(texts, clip.model.encode_text(clip.tokenizer(CAPTIONS))).min() > wanted
    assert torch.equal(texts[0], texts[3])
