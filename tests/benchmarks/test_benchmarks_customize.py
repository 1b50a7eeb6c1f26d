"""What the benchmark of customization compares is the same training: equal losses and gradients on
a small model.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from support.methods import attach, set_trainable
from torch import Tensor

from benchmarks import published as steps
from react_pipeline.clip.gated import gated_layers

BATCH, LAYERS, GATED = 4, 4, 3


@pytest.fixture
def model() -> Any:
    vision = {"image_size": 32, "layers": LAYERS, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    clip = CLIP(16, vision, text, quick_gelu=True)
    attach(clip, "gated-image", GATED)
    set_trainable(clip, "gated-image")
    for block in gated_layers(clip).values():
        # At zero a gated block has no gradient, and errors in it would not show.
        torch.nn.init.constant_(block.alpha_attn, 0.4)
        torch.nn.init.constant_(block.alpha_dense, -0.3)
    return clip


def one_step(model: Any, take: steps.Take) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step, of which the weights are taken back."""
    weights = {name: parameter.detach().clone() for name, parameter in steps.trained(model).items()}
    loss = take(0)
    gradients = {name: parameter.grad.clone() for name, parameter in steps.trained(model).items()}
    with torch.no_grad():
        for name, parameter in steps.trained(model).items():
            parameter.copy_(weights[name])
    return loss, gradients


def test_our_step_gives_the_published_gradients(model: Any) -> None:
    batches = steps.Batches.random(model, 1, BATCH, "cpu")
    loss, gradients = one_step(model, steps.published_step(model, batches))
    our_loss, our_gradients = one_step(model, steps.our_step(model, batches, "cpu"))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(
            our_gradients[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item()
        )
