"""Moving a trained model along the line to its base."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.methods import model_method, set_trainable, some_images
from torch import Tensor

from react_pipeline.clip import Clip, add_gated_blocks, gated_layers


def features(model: Any) -> Tensor:
    with torch.no_grad():
        return model.encode_image(some_images(model))


@torch.no_grad()
def train(model: Any) -> None:
    """Stands for a training: whatever is unfrozen moves."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.05 * torch.randn_like(parameter)


@pytest.fixture
def base(clip: Clip) -> Any:
    return clip.model


@pytest.fixture
def trained(base: Any) -> Any:
    model = copy.deepcopy(base)
    add_gated_blocks(model, 2)
    set_trainable(model, "gated-image")
    train(model)
    return model


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_gates_move_along_the_line_and_its_ends_are_exact(base: Any, trained: Any) -> None:
    start, end = weights_of(base), weights_of(trained)
    vectors = [features(model) for model in (base, trained)]
    assert not torch.allclose(*vectors, atol=1e-3)
    move_to = model_method("gated-image").line(trained, start, start.keys())
    move_to(0.5)
    for fraction in (0, 1):
        move_to(fraction)
        assert torch.equal(features(trained), vectors[fraction])
    assert all(torch.equal(weight, end[name]) for name, weight in trained.named_parameters())
    move_to(0.25)
    for name, parameter in trained.named_parameters():
        if name.endswith((".alpha_attn", ".alpha_dense")):
            assert parameter.item() != 0
            torch.testing.assert_close(parameter.tanh(), 0.25 * end[name].tanh())
        elif ".gated_attn_block." in name:
            assert torch.equal(parameter, end[name])
        else:
            torch.testing.assert_close(parameter, 0.75 * start[name] + 0.25 * end[name])


@pytest.mark.parametrize("method", ["gated-image", "locked-text", "locked-image", "full"])
def test_gated_blocks_of_base_itself_are_weights_like_any_other(base: Any, method: str) -> None:
    model = base
    add_gated_blocks(model, 2)
    for block in gated_layers(model).values():
        torch.nn.init.constant_(block.alpha_attn, 0.7)
    before, start = weights_of(model), features(model)
    set_trainable(model, method)
    train(model)
    end = weights_of(model)
    move_to = model_method(method).line(model, before, before.keys())
    move_to(0)
    assert torch.equal(features(model), start)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    move_to(0.25)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, 0.75 * before[name] + 0.25 * end[name])
