"""Gated blocks on every kind of image tower that is supported: closed gates change no bit, open
ones do.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from support.drawings import COLOURS, SHAPES
from support.methods import model_method
from support.pairs import DrawnPairs
from support.training import train_on
from torch import Tensor, nn

from react_pipeline.clip.gated import add_gated_blocks, gated_layers, vision_blocks
from react_pipeline.clip.model import Clip
from react_pipeline.clip.tower import ImageTower
from react_pipeline.settings.config import DomainConfig
from react_pipeline.settings.training import TrainingConfig

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
SMALL_TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_proj": "none"}
TOWERS: dict[str, dict[str, Any]] = {
    "CLIP's ViT": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT},
    "CLIP's ViT with a text tower apart": {
        "embed_dim": 16,
        "vision_cfg": VIT,
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "ViT that starts with scaled residuals": {
        "embed_dim": 16,
        "vision_cfg": {**VIT, "ls_init_value": 0.1},
        "text_cfg": TEXT,
    },
    "ViT with average pooling": {
        "embed_dim": 16,
        "vision_cfg": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT,
    },
    # As open_clip's ViT-B-16-SigLIP: a timm trunk, attention pooling, no projection, a bias beside
    # the logit scale.
    "SigLIP: timm ViT with attention pooling": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "vision_cfg": {**SMALL_TIMM, "timm_pool": "map"},
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last"},
        "custom_text": True,
    },
    "timm ViT with average pooling": {
        "embed_dim": 64,
        "vision_cfg": {**SMALL_TIMM, "timm_pool": "avg"},
        "text_cfg": TEXT,
        "custom_text": True,
    },
    # The network has random weights here, so none of the demo's packages is needed.
    "the demo's hybrid": {
        "embed_dim": 384,
        "vision_cfg": {
            "image_size": 128,
            "timm_model_name": "react_demo_hybrid",
            "timm_pool": "avg",
            "timm_proj": "none",
        },
        "text_cfg": TEXT,
        "custom_text": True,
    },
}


@pytest.fixture(params=TOWERS, ids=str)
def model(request: pytest.FixtureRequest) -> nn.Module:
    import react_pipeline.extensions.demo.network  # noqa: F401 - registers the hybrid with timm

    cfg = copy.deepcopy(TOWERS[request.param])
    torch.manual_seed(0)
    return (CustomTextCLIP if cfg.pop("custom_text", False) else CLIP)(**cfg).eval()


def images(model: nn.Module) -> Tensor:
    return torch.randn(2, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(1))


def open_gates(model: nn.Module) -> None:
    for block in gated_layers(model).values():
        nn.init.constant_(block.alpha_attn, 0.5)
        nn.init.constant_(block.alpha_dense, -0.5)


def train_gated_blocks(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("gated_attn_block" in name or name == "logit_scale")


@torch.no_grad()
def test_closed_gates_change_no_bit_and_open_ones_do(model: nn.Module) -> None:
    batch, tokens = (
        images(model),
        torch.randint(1, 60, (3, 8), generator=torch.Generator().manual_seed(2)),
    )
    image_features, text_features = model.encode_image(batch), model.encode_text(tokens)
    add_gated_blocks(model, 2)
    assert torch.equal(model.encode_image(batch), image_features)
    assert torch.equal(model.encode_text(tokens), text_features)
    for gate in ("alpha_attn", "alpha_dense"):
        for block in gated_layers(model).values():
            nn.init.constant_(getattr(block, gate), 0.5)
        assert not torch.allclose(model.encode_image(batch), image_features), gate
        for block in gated_layers(model).values():
            nn.init.zeros_(getattr(block, gate))


def test_a_gated_block_copies_width_norm_activation_and_heads(
    model: nn.Module,
) -> None:
    add_gated_blocks(model, 2)
    blocks = vision_blocks(model)
    assert list(gated_layers(model)) == [len(blocks) - 2, len(blocks) - 1]
    for number, block in gated_layers(model).items():
        host: Any = blocks[number]
        norm = getattr(host, "ln_1", getattr(host, "norm1", None))
        (width,) = norm.normalized_shape
        assert type(block.ln_1) is type(norm)
        assert block.ln_1.eps == norm.eps
        assert block.attn.num_heads == host.attn.num_heads
        assert type(block.mlp.gelu) is type(
            getattr(host.mlp, "gelu", getattr(host.mlp, "act", None))
        )
        assert block.mlp.c_fc.weight.shape == (4 * width, width)
        assert (
            sum(parameter.numel() for parameter in block.parameters())
            == 12 * width**2 + 13 * width + 2
        )


def test_every_trained_tensor_gets_gradient_through_open_gates(model: nn.Module) -> None:
    add_gated_blocks(model, 2)
    open_gates(model)
    train_gated_blocks(model)
    generator = torch.Generator().manual_seed(3)
    features = model.encode_image(images(model), normalize=True)
    (
        features @ torch.randn(features.shape[1], generator=generator) * model.logit_scale.exp()
    ).sum().backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]
    assert not without
    assert all(
        parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad
    )


def test_tower_of_training_gives_models_features_and_gradients(
    model: nn.Module,
) -> None:
    add_gated_blocks(model, 2)
    open_gates(model)
    train_gated_blocks(model)
    tower, batch = ImageTower(model), images(model)
    assert tower.splits
    assert tower.start == min(gated_layers(model))
    trained = [
        parameter for block in gated_layers(model).values() for parameter in block.parameters()
    ]
    expected = model.encode_image(batch)
    ours = tower.features(tower.tokens(batch))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4))
    wanted = torch.autograd.grad((expected * weights).sum(), trained)
    for got, value in zip(
        torch.autograd.grad((ours * weights).sum(), trained), wanted, strict=True
    ):
        torch.testing.assert_close(got, value, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_frozen_gated_blocks_still_count_in_the_training_tower(
    model: nn.Module,
) -> None:
    # A released REACT checkpoint as the base: its blocks are frozen, wholly or but for the last.
    add_gated_blocks(model, 2)
    open_gates(model)
    batch = images(model)
    expected = model.encode_image(batch)
    last = max(gated_layers(model))
    model.requires_grad_(False)
    for parameter in gated_layers(model)[last].parameters():
        parameter.requires_grad_(True)
    tower = ImageTower(model)
    assert tower.start == last
    torch.testing.assert_close(tower(batch), expected, atol=1e-5, rtol=1e-5)


def train_on_drawings(model: nn.Module, method: str, folder: Path, **fields: Any) -> dict[str, Any]:
    """Train on drawings; the counts."""
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]

    def tokenizer(texts: list[str]) -> Tensor:
        return torch.tensor([[1 + len(text) % 60] * 7 + [63] for text in texts])

    width = model.encode_image(torch.zeros(1, 3, side, side)).shape[1]
    clip = Clip(
        model,
        tokenizer,
        image_transform_v2(PreprocessCfg(size=side), is_train=False),
        {"embed_dim": width},
        {"size": (side, side)},
    )
    pairs = DrawnPairs([(shape, colour) for shape in SHAPES for colour in COLOURS])
    domain = DomainConfig(slug="shapes", classes=SHAPES, templates=("a {}",))
    training = TrainingConfig(
        augmentation="none", batch_size=8, workers=0, last_k_layers=2, **fields
    )
    return train_on(model_method(method), clip, pairs, domain, training, folder)


def test_a_training_starts_at_the_base_to_the_last_bit(model: nn.Module, tmp_path: Path) -> None:
    counts = train_on_drawings(model, "gated-image", tmp_path, steps=1)
    assert counts["step0_max_difference"] == 0
    assert counts["trainable_parameters"] > 0


def test_a_resnet_keeps_batch_statistics_and_trains_the_scale(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    model = CLIP(16, vision, TEXT).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_on_drawings(
        model,
        "locked-text",
        tmp_path,
        steps=2,
        learning_rate=1e-2,
        warmup_steps=0,
        precision="fp32",
    )
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {name for name, _ in model.visual.named_buffers()} and not changed & dict(
        model.named_buffers()
    ).keys()
    assert {"visual.bn1.weight", "visual.bn1.bias", "visual.layer4.0.bn1.weight"} <= changed
