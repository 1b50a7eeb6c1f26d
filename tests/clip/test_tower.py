"""The image tower of the training against the model's own: outputs, gradients, and what is left out
on the way.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.methods import (
    RESNET,
    VIT,
    attach,
    require_close,
    set_trainable,
    small_clip,
    some_images,
    weighted_gradients,
)
from torch import Tensor, nn

from react_pipeline.clip import (
    ImageTower,
    gated_layers,
    recompute_activations,
    vision_blocks,
)

TIMM = {"image_size": 160, "timm_model_name": "test_vit"}
COCA_POOL = {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "ViT, QuickGELU": {"quick_gelu": True},
    "ViT, LayerScale, MLP ratio 3": {"vision": {**VIT, "ls_init_value": 0.3, "mlp_ratio": 3.0}},
    "ViT, mean of the patches": {"vision": {**VIT, "pool_type": "avg"}},
    "ViT, norm after pooling": {"vision": {**VIT, "pool_type": "avg", "final_ln_after_pool": True}},
    "ViT, norm after the token": {"vision": {**VIT, "final_ln_after_pool": True}},
    "ViT, attentional pooling": {"vision": {**VIT, **COCA_POOL}},
    "ViT, no first norm, fixed positions": {
        "vision": {**VIT, "no_ln_pre": True, "pos_embed_type": "sin_cos_2d"}
    },
    "ViT, text tower apart": {"custom": True},
    "timm ViT, token": {"vision": {**TIMM, "timm_pool": "token", "timm_proj": "linear"}},
    "timm ViT, mean": {"vision": {**TIMM, "timm_pool": "avg", "timm_proj": "mlp"}},
    "timm ViT, map": {
        "vision": {**TIMM, "timm_pool": "map", "timm_proj": "none"},
        "dimension": 64,
    },
}


def build(name: str) -> Any:
    return small_clip(**TOWERS[name])


def gated(model: Any, last_k_layers: int) -> Any:
    torch.manual_seed(1)
    attach(model, "gated-image", last_k_layers)
    for number, block in gated_layers(model).items():
        nn.init.constant_(block.alpha_attn, 0.4 + number / 10)
        nn.init.constant_(block.alpha_dense, -0.3)
    set_trainable(model, "gated-image")
    return model


def trained_of(model: Any) -> dict[str, nn.Parameter]:
    """Of the image tower; the logit scale is none of its business."""
    named = model.visual.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def gradients(model: Any, features: Tensor) -> dict[str, Tensor]:
    return weighted_gradients(features, trained_of(model))


def require_equal(model: Any, tower: ImageTower) -> None:
    batch = some_images(model)
    ours, theirs = tower(batch), model.encode_image(batch)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    require_close(gradients(model, ours), gradients(model, theirs), rtol=1e-5)


@pytest.mark.parametrize("last_k_layers", [1, 2, 99], ids=["last block", "last two", "all blocks"])
@pytest.mark.parametrize("name", TOWERS)
def test_features_and_gradients_are_the_models_own(name: str, last_k_layers: int) -> None:
    model = gated(build(name), last_k_layers)
    tower = ImageTower(model)
    assert tower.splits
    assert tower.start == max(0, len(vision_blocks(model)) - last_k_layers)
    assert tower.tokens(some_images(model)).grad_fn is None
    require_equal(model, tower)
    # As a released REACT checkpoint as the base: blocks are frozen, here all but the last.
    model.requires_grad_(False)
    layers = gated_layers(model)
    layers[max(layers)].requires_grad_(True)
    require_equal(model, ImageTower(model))


def test_a_timm_tower_of_unknown_blocks_runs_as_it_is() -> None:
    fields = {"timm_pool": "token", "timm_proj": "linear", "image_size": 224}
    model = small_clip({"timm_model_name": "vit_small_patch16_18x2_224", **fields})  # two abreast
    batch = some_images(model)
    assert torch.equal(ImageTower(model)(batch), model.encode_image(batch))


@pytest.mark.parametrize("name", [*TOWERS, "ResNet"])
def test_a_tower_that_trains_as_a_whole_equals_the_models_own(name: str) -> None:
    resnet = name == "ResNet"
    model = small_clip(RESNET) if resnet else build(name)
    set_trainable(model, "locked-text")
    before = copy.deepcopy([*model.buffers()])
    if resnet:
        recompute_activations(model)  # which changes nothing
    tower = ImageTower(model)
    assert not tower.splits
    assert len(trained_of(model)) == len(list(model.visual.parameters()))
    require_equal(model, tower)
    assert all(map(torch.equal, model.buffers(), before))  # statistics are at rest
    model.requires_grad_(False)
    batch = some_images(model)
    features = ImageTower(model)(batch)
    assert not features.requires_grad
    torch.testing.assert_close(features, model.encode_image(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["gated-image", "locked-text"])
@pytest.mark.parametrize("name", ["ViT, QuickGELU", "timm ViT, token"])
def test_recomputed_activations_give_the_same_gradients(name: str, method: str) -> None:
    model = build(name)
    if method == "gated-image":
        gated(model, 2)
    set_trainable(model, method)
    batch = some_images(model)
    plain = gradients(model, ImageTower(model)(batch))
    # Counted at a layer of the last block, which trains in both methods.
    last, runs = vision_blocks(model)[-1], []
    norm = getattr(last, "ln_2", getattr(last, "norm2", None))
    norm.register_forward_hook(lambda *_: runs.append(1))
    recompute_activations(model)
    again = gradients(model, ImageTower(model)(batch))
    assert len(runs) == 2
    torch.testing.assert_close(again, plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["ViT", "ViT, LayerScale, MLP ratio 3", "ViT, attentional pooling", "timm ViT, token"]
)
def test_copies_in_bf16_give_what_autocast_gives(name: str) -> None:
    model = gated(build(name), 2)
    batch = some_images(model)
    plain, cast = ImageTower(model), ImageTower(model)
    cast.use_half(torch.bfloat16, frozen_only=True)
    halved = {one.dtype == torch.bfloat16 for block in cast.blocks for one in block.parameters()}
    assert (True in halved) == name.startswith("ViT")
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = plain(batch), cast(batch)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    got = gradients(model, ours.float())
    torch.testing.assert_close(got, gradients(model, theirs.float()), atol=1e-5, rtol=1e-5)
