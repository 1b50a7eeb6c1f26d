"""Dense features against the model's own blocks, and formulas written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor

from react_pipeline.clip import add_gated_blocks
from react_pipeline.extensions.dense.maps import DenseTower
from react_pipeline.store import InputError

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
RESNET = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 8, "head_width": 16}


def judged_model(vision: dict[str, Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(32, copy.deepcopy(vision), TEXT).eval()
        for parameter in model.visual.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gated", [0, 2])
def test_a_patch_keeps_its_own_value_in_the_last_block(gated: int) -> None:
    model = judged_model(VIT)
    if gated:
        add_gated_blocks(model, gated)
        for parameter in model.visual.parameters():
            parameter.data += 0.05 * (parameter.ndim == 0)
    tower = DenseTower(model)
    block, entering = tower.tower.blocks[-1], []
    # What enters the host, after the gated block before it.
    handle = block.ln_1.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model.visual(images())
    handle.remove()
    x = entering[0]
    packed = functional.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    _, key, value = packed.chunk(3, -1)
    y = x + block.attn.out_proj(value)
    y = y + block.mlp(block.ln_2(y))
    wanted = model.visual.ln_post(y) @ model.visual.proj, block.attn.out_proj(key)
    for found, part in zip(tower(images()), wanted, strict=True):
        unit = functional.normalize(part[:, 1:], dim=-1).unflatten(1, (4, 4))
        torch.testing.assert_close(found, unit, atol=2e-5, rtol=1e-4)


def test_zero_gates_give_the_dense_map_of_the_base_bit_for_bit() -> None:
    base = judged_model(VIT)
    gated, pixels = copy.deepcopy(base), images()
    add_gated_blocks(gated, 2)
    for one, other in zip(DenseTower(base)(pixels), DenseTower(gated)(pixels), strict=True):
        assert torch.equal(one, other)
    gated.visual.requires_grad_(False)
    DenseTower(gated).tower.blocks[-1].gated_attn_block.alpha_attn.data.fill_(0.5)
    assert not torch.equal(DenseTower(base)(pixels)[0], DenseTower(gated)(pixels)[0])


def test_positions_are_resized_for_other_sizes_only() -> None:
    model = judged_model(VIT)
    own = model.visual.positional_embedding
    before = own.clone()
    assert DenseTower(model)(images(96, 128))[0].shape == (2, 6, 8, 32)
    assert model.visual.positional_embedding is own and torch.equal(own, before)
    # Positions that are all alike stay so at any size: an image that repeats has a map that
    # repeats.
    own.data[1:] = own.data[1:2]
    wide = DenseTower(model)(images().repeat(1, 1, 1, 2))[0]
    torch.testing.assert_close(wide[:, :, :4], wide[:, :, 4:], atol=1e-5, rtol=1e-4)


def test_other_towers_are_refused_by_name() -> None:
    timm = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "avg"}
    for model in (CustomTextCLIP(32, {**timm, "timm_proj": "linear"}, TEXT), judged_model(RESNET)):
        with pytest.raises(InputError, match="need a ViT"):
            DenseTower(model)
