"""Low-rank blocks start as the base, train, and end as weights of plain open_clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from support.methods import RESNET, attach, model_method, set_trainable, small_clip
from support.text_tower import write_text_tower_checkpoint
from torch import Tensor, nn

from react_pipeline.clip import Clip, ImageTower, encode_text, load
from react_pipeline.clip.tower import is_plain
from react_pipeline.extensions.methods.low_rank import LowRank
from react_pipeline.settings import TrainingConfig
from react_pipeline.store import InputError

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = ["a red circle", "a drawing of a square"]


@pytest.fixture(params=["open_clip", "transformers"])
def checkpoint(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    native = request.param == "open_clip"
    return tiny_checkpoint if native else write_text_tower_checkpoint(tmp_path)


def features(clip: Clip) -> tuple[Tensor, Tensor]:
    """As a training computes them."""
    model = clip.model
    return ImageTower(model)(IMAGES).detach(), encode_text(model, clip.tokenizer(TEXTS)).detach()


def opened(model: nn.Module) -> nn.Module:
    """A model whose low-rank blocks change something, as after a training."""
    chance = torch.Generator().manual_seed(1)
    for block in blocks(model):
        nn.init.normal_(block.up, std=0.3, generator=chance)
    return model


def blocks(model: nn.Module) -> list[LowRank]:
    return [module for module in model.modules() if isinstance(module, LowRank)]


def test_zero_blocks_are_the_base_and_merging_changes_nothing(checkpoint: Path) -> None:
    base, clip = load(checkpoint), load(checkpoint)
    names = list(base.model.state_dict())
    for model in (base.model, clip.model):
        model.requires_grad_(False)
    attach(clip.model, "lora-both", 1)
    assert len(blocks(clip.model)) == 2 + (1 if type(base.model) is CLIP else 3)
    clip.model.requires_grad_(False)
    assert all(map(torch.equal, features(clip), features(base)))
    opened(clip.model)
    assert all(map(is_plain, clip.model.visual.transformer.resblocks))  # the fast way stays open
    unmerged = features(clip)
    assert not any(map(torch.allclose, unmerged, features(base)))
    assert torch.allclose(unmerged[0], clip.model.encode_image(IMAGES), atol=1e-4)
    model_method("lora-both").merge(clip.model)
    assert sorted(clip.model.state_dict()) == sorted(names) and not blocks(clip.model)
    torch.testing.assert_close(features(clip), unmerged, atol=1e-5, rtol=0)


def in_projection(model: Any, block: int) -> Tensor:
    return model.visual.transformer.resblocks[block].attn.in_proj_weight


def test_a_block_is_the_formula_for_each_projection(clip: Clip) -> None:
    model = clip.model
    before = in_projection(model, 1).detach().clone()
    model_method("lora-image").attach(model, TrainingConfig(rank=3))
    opened(model)
    block = blocks(model)[-1]
    for number in range(3):
        rows = slice(32 * number, 32 * (number + 1))
        expected = before[rows] + block.up[number] @ block.down[number] / 3
        torch.testing.assert_close(in_projection(model, 1)[rows], expected)
    assert set_trainable(model, "lora-image") == 1 + 2 * 3 * 3 * (32 + 32)


def test_the_line_to_the_base_is_one_of_weights(tiny_checkpoint: Path) -> None:
    base, model = (load(tiny_checkpoint).model for _ in range(2))
    method = model_method("lora-image")
    attach(model, "lora-image", 1)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    opened(model)
    for block in blocks(model):
        nn.init.normal_(block.down)
    ends = [in_projection(one, 0).detach().clone() for one in (base, model)]
    method.line(model, start, base.state_dict().keys())(0.25)
    method.merge(model)
    torch.testing.assert_close(in_projection(model, 0), torch.lerp(*ends, 0.25))


def test_towers_without_attention_are_refused() -> None:
    with pytest.raises(InputError, match="attention"):
        attach(small_clip(RESNET), "lora-image", 1)
    model = small_clip()
    model.transformer = nn.Identity()
    with pytest.raises(InputError, match="text tower"):
        attach(model, "lora-both", 1)
