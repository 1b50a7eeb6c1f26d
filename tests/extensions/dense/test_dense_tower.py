"""Dense features against the model's own tokens, formulas written out, and regions whose vector is
known.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor

from react_pipeline.clip.gated import add_gated_blocks
from react_pipeline.extensions.dense.tower import GAUSSIAN_STD, DenseTower
from react_pipeline.store.errors import InputError

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
VISION: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "vit-avg": {
        "image_size": 64,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
        "pool_type": "avg",
    },
    "resnet": {"image_size": 64, "layers": (1, 1, 1, 1), "width": 8, "head_width": 16},
}


def model_of(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(32, copy.deepcopy(VISION[name]), TEXT).eval()
        for parameter in model.visual.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def images(height: int = 64, width: int | None = None, count: int = 2) -> Tensor:
    return torch.randn(
        count, 3, height, width or height, generator=torch.Generator().manual_seed(1)
    )


def parts_of(model: Any) -> tuple[Tensor, list[Tensor], Any]:
    """What enters the last block of a native ViT, its queries, keys and values (B, heads, T, d),
    and the block.
    """
    entering: list[Tensor] = []
    block = model.visual.transformer.resblocks[-1]
    handle = block.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model.visual(images())
    handle.remove()
    packed = functional.linear(
        block.ln_1(entering[0]), block.attn.in_proj_weight, block.attn.in_proj_bias
    )
    return (
        entering[0],
        [part.unflatten(-1, (2, 16)).transpose(1, 2) for part in packed.chunk(3, -1)],
        block,
    )


def finished(model: Any, x: Tensor) -> Tensor:
    return functional.normalize(
        model.visual.ln_post(x)[:, 1:] @ model.visual.proj, dim=-1
    ).unflatten(1, (4, 4))


@pytest.mark.parametrize("name", ["vit", "vit-avg"])
@pytest.mark.parametrize("gated", [0, 2])
def test_ordinary_attention_gives_the_models_own_tokens(name: str, gated: int) -> None:
    model = model_of(name)
    if gated:
        add_gated_blocks(model, gated)
        for parameter in model.visual.parameters():
            parameter.data += 0.05 * torch.ones_like(parameter) * (parameter.ndim == 0)
    tower = DenseTower(model, "model")
    pixels, side = images(), 4
    tokens, _ = tower.tokens(pixels)
    found: list[Tensor] = []
    blocks = tower.tower.blocks
    handle = blocks[-1].register_forward_hook(lambda *given: found.append(given[2]))
    pooled = model.encode_image(pixels)
    handle.remove()
    torch.testing.assert_close(tokens, found[0], atol=2e-5, rtol=1e-4)
    assert tower(pixels)[0].shape == (2, side, side, 32)
    if name == "vit":  # a class token goes the same way as the patches
        torch.testing.assert_close(
            tower._project(tokens[:, :1])[:, 0], pooled, atol=2e-5, rtol=1e-4
        )


@pytest.mark.parametrize("attention", ["value", "qq"])
def test_zero_gates_give_the_dense_map_of_the_base_bit_for_bit(attention: str) -> None:
    base = model_of("vit")
    gated, pixels = copy.deepcopy(base), images()
    add_gated_blocks(gated, 2)
    for one, other in zip(
        DenseTower(base, attention)(pixels), DenseTower(gated, attention)(pixels), strict=True
    ):
        assert torch.equal(one, other)
    gated.visual.requires_grad_(False)
    for block in DenseTower(gated).tower.blocks[-1:]:
        block.gated_attn_block.alpha_attn.data.fill_(0.5)
    assert not torch.equal(
        DenseTower(base, attention)(pixels)[0], DenseTower(gated, attention)(pixels)[0]
    )


@pytest.mark.parametrize(
    ("attention", "whole"), [("value", True), ("qq", False), ("qq+kk", True), ("kk+gauss", False)]
)
def test_attention_equals_its_formula_written_out(attention: str, whole: bool) -> None:
    model = model_of("vit")
    x, (query, key, value), block = parts_of(model)
    places = torch.tensor(
        [[row, column] for row in range(4) for column in range(4)], dtype=torch.float32
    )
    near = torch.zeros(17, 17)
    near[1:, 1:] = torch.exp(-(torch.cdist(places, places) ** 2) / (2 * GAUSSIAN_STD**2))
    shares = {
        "value": torch.eye(17).expand(2, 2, 17, 17),
        "qq": (query @ query.mT / 4).softmax(-1),
        "qq+kk": (query @ query.mT / 4).softmax(-1) + (key @ key.mT / 4).softmax(-1),
        "kk+gauss": (key @ key.mT / 4 + near).softmax(-1),
    }[attention]
    y = block.attn.out_proj((shares @ value).transpose(1, 2).flatten(2))
    if whole:
        y = x + y
        y = y + block.mlp(block.ln_2(y))
    found, keys = DenseTower(model, attention)(images())
    torch.testing.assert_close(found, finished(model, y), atol=1e-5, rtol=1e-4)
    projected = block.attn.out_proj(key.transpose(1, 2).flatten(2))[:, 1:]
    wanted = functional.normalize(projected, dim=-1).unflatten(1, (4, 4))
    torch.testing.assert_close(keys, wanted, atol=1e-5, rtol=1e-4)


def test_positions_are_resized_for_other_sizes_only() -> None:
    model = model_of("vit")
    own = model.visual.positional_embedding
    before = own.clone()
    tower = DenseTower(model)
    assert tower(images(96, 128))[0].shape == (2, 6, 8, 32)
    assert model.visual.positional_embedding is own and torch.equal(own, before)
    # Positions that are all alike stay so at any size: an image that repeats has a map that
    # repeats.
    own.data[1:] = own.data[1:2]
    tower = DenseTower(model)
    wide = tower(images().repeat(1, 1, 1, 2))[0]
    torch.testing.assert_close(wide[:, :, :4], wide[:, :, 4:], atol=1e-5, rtol=1e-4)


def test_a_resnets_map_is_its_attention_pool_without_attention() -> None:
    model = model_of("resnet")
    tower, visual = DenseTower(model), model.visual
    found, _ = tower(images(96, 128))
    assert found.shape == (2, 3, 4, 32)
    deep = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images(96, 128))))))
    pool = visual.attnpool
    value = functional.conv2d(deep, pool.v_proj.weight[:, :, None, None], pool.v_proj.bias)
    wanted = functional.conv2d(value, pool.c_proj.weight[:, :, None, None], pool.c_proj.bias)
    torch.testing.assert_close(
        found, functional.normalize(wanted, dim=1).permute(0, 2, 3, 1), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["vit", "vit-avg"])
def test_a_region_of_the_map_is_the_mean_of_its_tokens(
    name: str,
) -> None:
    tower = DenseTower(model_of(name))
    image = images(64, 96, 1)
    features = tower(image)[0][0]
    whole = [0.0, 0.0, float(image.shape[-1]), float(image.shape[-2])]
    found = tower.regions(image, torch.tensor([whole, [32.0, 16.0, 48.0, 32.0]]))
    torch.testing.assert_close(
        found[0], functional.normalize(features.mean(dim=(0, 1)), dim=0), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(found[1], features[1, 2], atol=1e-5, rtol=1e-4)


def test_region_over_whole_image_is_vector_that_resnet_gives_it() -> None:
    model = model_of("resnet")
    found = DenseTower(model).regions(images(count=1), torch.tensor([[0.0, 0.0, 64.0, 64.0]]))
    torch.testing.assert_close(
        found, model.encode_image(images(count=1), normalize=True), atol=1e-5, rtol=1e-4
    )


def test_other_towers_are_refused_by_name() -> None:
    model = CustomTextCLIP(
        32,
        {
            "timm_model_name": "test_vit",
            "image_size": 160,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        TEXT,
    )
    with pytest.raises(InputError, match="use crops"):
        DenseTower(model)
    with pytest.raises(InputError, match="ResNet"):
        DenseTower(model_of("resnet"), "qq")
