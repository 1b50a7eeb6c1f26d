from __future__ import annotations

from typing import Any

import pytest
from support.methods import VIT, attach, set_trainable, small_clip
from torch import nn

from react_pipeline.clip import add_gated_blocks, gated_layers, vision_blocks
from react_pipeline.store import InputError

TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_proj": "none", "timm_pool": "map"}
DEMO = {"image_size": 128, "timm_model_name": "react_demo_hybrid", "timm_proj": "none"}
TOWERS: dict[str, dict[str, Any]] = {
    "open_clip ViT": {},
    "open_clip ViT, QuickGELU": {"quick_gelu": True},
    "open_clip ViT, host MLP ratio 2": {"vision": {**VIT, "mlp_ratio": 2.0}},
    "timm ViT, attention pooling": {"vision": TIMM, "dimension": 64, "custom": True},
    "demo": {"vision": {**DEMO, "timm_pool": "avg"}, "dimension": 384, "custom": True},
}


@pytest.fixture(params=TOWERS, ids=str)
def model(request: pytest.FixtureRequest) -> nn.Module:
    import react_pipeline.extensions.demo.network  # noqa: F401 - registers the hybrid with timm

    return small_clip(**TOWERS[request.param])


def test_only_last_layers_get_a_block_of_their_own_kind(model: nn.Module) -> None:
    own = set(model.state_dict())
    add_gated_blocks(model, 2)
    added = set(model.state_dict()) - own
    blocks = vision_blocks(model)
    assert list(gated_layers(model)) == [len(blocks) - 2, len(blocks) - 1]
    assert len(added) == 28 and len({name.split(".gated_attn_block.")[1] for name in added}) == 14
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
    (block,) = gated_layers(model).values()
    attach(model, "gated-image", 2)
    assert list(gated_layers(model).values()) == [block]
    own = sum(parameter.numel() for parameter in block.parameters())
    assert set_trainable(model, "gated-image") == 1 + own


def test_wrong_use_is_reported(model: nn.Module) -> None:
    with pytest.raises(InputError, match="99"):
        add_gated_blocks(model, 99)
    with pytest.raises(InputError, match="attach"):
        set_trainable(model, "gated-image")
    add_gated_blocks(model, 1)
    with pytest.raises(InputError, match="already"):
        add_gated_blocks(model, 1)
