from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from support.methods import attach, set_trainable
from torch import Tensor, nn

from react_pipeline.clip.gated import (
    add_gated_blocks,
    gated_layers,
    vision_blocks,
)
from react_pipeline.store.errors import InputError

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_proj": "none"}
DEMO = {"image_size": 128, "timm_model_name": "react_demo_hybrid", "timm_proj": "none"}
TOWERS: dict[str, dict[str, Any]] = {
    "open_clip ViT": {"embed_dim": 16, "vision_cfg": VIT},
    "open_clip ViT, QuickGELU": {"embed_dim": 16, "vision_cfg": VIT, "quick_gelu": True},
    "open_clip ViT, host MLP ratio 2": {"embed_dim": 16, "vision_cfg": {**VIT, "mlp_ratio": 2.0}},
    "timm ViT, attention pooling": {"embed_dim": 64, "vision_cfg": {**TIMM, "timm_pool": "map"}},
    "demo": {"embed_dim": 384, "vision_cfg": {**DEMO, "timm_pool": "avg"}},
}


@pytest.fixture(params=TOWERS, ids=str)
def model(request: pytest.FixtureRequest) -> nn.Module:
    import react_pipeline.extensions.demo.network  # noqa: F401 - registers the hybrid with timm

    return build(request.param)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    cfg = copy.deepcopy(TOWERS[name])
    kind = CustomTextCLIP if "timm_model_name" in cfg["vision_cfg"] else CLIP
    return kind(text_cfg=TEXT, **cfg).eval()


def images(model: nn.Module, count: int = 3) -> Tensor:
    size = model.visual.image_size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def open_gates(model: nn.Module) -> None:
    for number, block in gated_layers(model).items():
        nn.init.constant_(block.alpha_attn, 0.3 + number / 10)
        nn.init.constant_(block.alpha_dense, -0.2)


def test_only_last_layers_get_a_block_with_published_names(model: nn.Module) -> None:
    own = set(model.state_dict())
    add_gated_blocks(model, 2)
    added = sorted(set(model.state_dict()) - own)
    blocks = vision_blocks(model)
    assert list(gated_layers(model)) == [len(blocks) - 2, len(blocks) - 1]
    assert len(added) == 28
    assert {name.split(".gated_attn_block.")[1] for name in added} == {
        "alpha_attn", "alpha_dense", "ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias",
        "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias",
        "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
    }  # fmt: skip
    for number, block in gated_layers(model).items():
        host: Any = blocks[number]
        norm = getattr(host, "ln_1", getattr(host, "norm1", None))
        assert (type(block.ln_1), block.ln_1.eps) == (type(norm), norm.eps)
        assert block.attn.num_heads == host.attn.num_heads
        activation = getattr(host.mlp, "gelu", getattr(host.mlp, "act", None))
        assert type(block.mlp.gelu) is type(activation)
        (width,) = norm.normalized_shape
        assert block.mlp.c_fc.weight.shape == (4 * width, width)


def test_a_model_with_gated_blocks_continues_training_its_own(model: nn.Module) -> None:
    add_gated_blocks(model, 1)
    open_gates(model)
    (block,) = gated_layers(model).values()
    attach(model, "gated-image", 2)
    assert list(gated_layers(model).values()) == [block]
    assert set_trainable(model, "gated-image") == 1 + sum(
        parameter.numel() for parameter in block.parameters()
    )


def test_wrong_use_is_reported(model: nn.Module) -> None:
    with pytest.raises(InputError, match="99"):
        add_gated_blocks(model, 99)
    with pytest.raises(InputError, match="attach"):
        set_trainable(model, "gated-image")
    add_gated_blocks(model, 1)
    with pytest.raises(InputError, match="already"):
        add_gated_blocks(model, 1)
