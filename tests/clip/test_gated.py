from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from support.methods import attach, set_trainable
from torch import Tensor, nn

from react_pipeline.clip.gated import (
    GatedBlock,
    add_gated_blocks,
    gated_layers,
    scale_gates,
    vision_blocks,
)
from react_pipeline.clip.tower import trains_images, trains_text
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


@torch.no_grad()
def test_closed_gates_leave_features_bit_identical(model: nn.Module) -> None:
    batch = images(model)
    before = model.encode_image(batch)
    add_gated_blocks(model, 2)
    assert torch.equal(model.encode_image(batch), before)
    for gate in ("alpha_attn", "alpha_dense"):
        for block in gated_layers(model).values():
            nn.init.constant_(getattr(block, gate), 0.5)
        assert not torch.allclose(model.encode_image(batch), before), gate
        for block in gated_layers(model).values():
            nn.init.zeros_(getattr(block, gate))


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


def formula(block: GatedBlock, x: Tensor, heads: int, quick: bool) -> Tensor:
    """The block of REACT in plain tensor algebra, batch-first."""
    batch, length, width = x.shape
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    q, k, v = (part.view(batch, length, heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / (width // heads) ** 0.5, -1)
    mixed = (weights @ v).transpose(1, 2).reshape(batch, length, width)
    y = x + torch.tanh(block.alpha_attn) * block.attn.out_proj(mixed)
    hidden = block.mlp.c_fc(block.ln_2(y))
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else nn.functional.gelu(hidden)
    return y + torch.tanh(block.alpha_dense) * block.mlp.c_proj(hidden)


@pytest.mark.parametrize(
    "name", ["open_clip ViT", "open_clip ViT, QuickGELU", "open_clip ViT, host MLP ratio 2"]
)
def test_forward_and_gradients_follow_the_formula(name: str) -> None:
    model = build(name)
    add_gated_blocks(model, 1)
    open_gates(model)
    block = gated_layers(model)[2]
    entering: list[Tensor] = []
    host: Any = vision_blocks(model)[2]
    host.ln_1.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    block.register_forward_hook(lambda *args: entering.append(args[2]))
    with torch.no_grad():
        model.encode_image(images(model, 1))
    assert entering[0] is entering[1]  # it precedes its host
    x = torch.randn(2, 5, 32)
    ours, theirs = block(x), formula(block, x, heads=2, quick="QuickGELU" in name)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    parameters = list(block.parameters())
    expected = torch.autograd.grad(theirs.square().sum(), parameters)
    for got, wanted in zip(
        torch.autograd.grad(ours.square().sum(), parameters), expected, strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_gates_scale_from_the_base_to_the_trained_model(model: nn.Module) -> None:
    batch = images(model)
    with torch.no_grad():
        base = model.encode_image(batch)
        add_gated_blocks(model, 2)
        open_gates(model)
        trained = model.encode_image(batch)
        half = copy.deepcopy(model)
        scale_gates(gated_layers(half).values(), 0.5)
        ((_, block), _) = gated_layers(half).items()
        ((_, whole), _) = gated_layers(model).items()
        assert block.alpha_attn.tanh().item() == pytest.approx(whole.alpha_attn.tanh().item() / 2)
        scale_gates(gated_layers(model).values(), 1.0)
        torch.testing.assert_close(model.encode_image(batch), trained)
        scale_gates(gated_layers(model).values(), 0.0)
        assert torch.equal(model.encode_image(batch), base)


@pytest.mark.parametrize("method", ["gated-image", "locked-text", "locked-image", "full"])
def test_what_trains_in_each_method(model: nn.Module, method: str) -> None:
    attach(model, method, 2)
    names = {name for name, _ in model.named_parameters()}
    image = {name for name in names if name.startswith("visual.")}
    logit = {"logit_scale"}
    wanted = {
        "gated-image": {name for name in names if ".gated_attn_block." in name} | logit,
        "locked-text": image | logit,
        "locked-image": names - image,
        "full": names,
    }[method]
    count = set_trainable(model, method)
    assert {name for name, one in model.named_parameters() if one.requires_grad} == wanted
    assert count == sum(model.get_parameter(name).numel() for name in wanted)
    assert trains_text(model) == bool(wanted - image - logit)
    assert trains_images(model) == bool(wanted & image)


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
