"""Towers with fused layers give the same features, or none at all.

That vectors are the model's own in every precision is in `gpu/test_devices.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn
from transformers import BertConfig

from react_pipeline.clip.model import Clip, load
from react_pipeline.embedding import encoder as encoder_module
from react_pipeline.embedding.encoder import Encoder, convert
from react_pipeline.embedding.fused import Features


@pytest.fixture
def clip(tiny_checkpoint: Path) -> Clip:
    """A small ResNet beside a small text tower."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = CLIP(32, vision, text).eval()  # type: ignore[arg-type]
    return replace(load(tiny_checkpoint), model=model)


TOWERS: dict[str, Features] = {
    # What it does with one row is not in the trace of two.
    "other for singles": lambda batch: batch.flip(1) if len(batch) == 1 else batch,
    # No operator of ONNX does this.
    "not to be traced": lambda batch: torch.special.entr(torch.fft.rfft(batch).real),
    # Without a number there is nothing to compare.
    "not finite": lambda batch: batch / (batch.sum(dim=1, keepdim=True) - batch[:1].sum()),
}


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("name", TOWERS)
def test_tower_that_would_give_other_features_is_not_converted(name: str, texts: bool) -> None:
    tower, rows = TOWERS[name], torch.rand(2, 8)
    assert convert(tower, nn.Identity(), [rows, rows[:1]], "fp32", texts=texts) is tower


def counted(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    converted: list[nn.Module] = []

    def recorded(tower: Any, model: nn.Module, *args: Any, **options: Any) -> Any:
        run = convert(tower, model, *args, **options)
        converted.extend([model] * (run is not tower))
        return run

    monkeypatch.setattr(encoder_module, "convert", recorded)
    return converted


@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-5), ("bf16", 0.03)])
def test_long_runs_convert_convolutions_once_and_give_the_same(
    clip: Clip, monkeypatch: pytest.MonkeyPatch, precision: str, close: float
) -> None:
    converted = counted(monkeypatch)
    images = torch.randn(40, 3, 32, 32)
    exact = clip.encode_images(images)
    expected = Encoder(clip, precision).images(images)
    torch.testing.assert_close(expected, exact, atol=close, rtol=close)
    encoder = Encoder(clip, precision, rows=500)
    some, vectors = encoder.images(images[:3]), encoder.images(images)
    torch.testing.assert_close(vectors, expected, atol=close, rtol=close)
    # It computes in the precision that was asked for, and a batch of any size by the same kernels.
    assert torch.allclose(vectors, exact, atol=1e-5, rtol=1e-4) == (precision == "fp32")
    torch.testing.assert_close(some, vectors[:3], atol=1e-5, rtol=1e-4)
    assert not any(module.training for module in clip.model.modules())
    assert converted == [clip.model.visual]


def test_texts_of_a_transformers_tower_ignore_their_padding(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=64, intermediate_size=64, pad_token_id=0, **sizes)
    clip = load(tiny_checkpoint)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    model = CustomTextCLIP(32, vision, text).eval()  # type: ignore[arg-type]
    model.text = HFTextEncoder(
        "bert", 32, config=config, pooler_type="mean_pooler", pretrained=False
    ).eval()
    clip = replace(clip, model=model)
    converted = counted(monkeypatch)
    tokens = torch.zeros(40, 12, dtype=torch.long)
    for row in range(len(tokens)):
        length = 2 + row % 11
        tokens[row, :length] = torch.randint(1, 64, (length,))
    expected = Encoder(clip, "fp32").texts(tokens)
    encoder = Encoder(clip, "fp32", rows=500)
    torch.testing.assert_close(encoder.texts(tokens), expected, atol=1e-5, rtol=1e-4)
    assert converted == [model]
