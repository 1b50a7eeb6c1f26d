"""What the benchmark of customization compares is the same training: equal losses and gradients on a small model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import customize as benchmark
from react_pipeline.gated import gated_layers
from react_pipeline.methods import attach, set_trainable
from react_pipeline.tower import ImageTower

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


def one_step(model: Any, take: benchmark.Take) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step, of which the weights are taken back."""
    weights = {name: parameter.detach().clone() for name, parameter in benchmark.trained(model).items()}
    loss = take(0)
    gradients = {name: parameter.grad.clone() for name, parameter in benchmark.trained(model).items()}
    with torch.no_grad():
        for name, parameter in benchmark.trained(model).items():
            parameter.copy_(weights[name])
    return loss, gradients


def ours(model: Any, batches: benchmark.Batches, parts: frozenset[str]) -> benchmark.Take:
    return benchmark.our_step(model, batches, parts, benchmark.PartialTower(model, parts), "cpu")


@pytest.mark.parametrize("count", range(1, benchmark.PARTS.index(benchmark.FUSED) + 2))
def test_the_published_step_and_ours_with_any_parts_on_give_the_same_loss_and_gradients(model: Any, count: int) -> None:
    batches = benchmark.Batches.random(model, 1, BATCH, "cpu")
    loss, gradients = one_step(model, benchmark.published_step(model, batches))
    our_loss, our_gradients = one_step(model, ours(model, batches, frozenset(benchmark.PARTS[:count])))
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert our_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("name", [benchmark.OURS_FP32, benchmark.OURS_BF16, "ours bf16, tokens kept"])
def test_the_ablations_last_tower_is_the_one_that_trains(model: Any, name: str) -> None:
    parts = benchmark.VARIANTS[name].parts
    batches = benchmark.Batches.random(model, 1, BATCH, "cpu")
    real = benchmark.our_step(model, batches, parts, ImageTower(model), "cpu")
    loss, gradients = one_step(model, real)
    partial_loss, partial_gradients = one_step(model, ours(model, batches, parts))
    assert partial_loss == loss
    assert all(torch.equal(partial_gradients[key], gradient) for key, gradient in gradients.items())


@pytest.mark.parametrize("count", [0, *range(2, len(benchmark.PARTS) + 1)])
def test_the_formula_counts_the_matrix_products_that_a_step_takes(model: Any, count: int) -> None:
    parts = frozenset(benchmark.PARTS[:count])
    batches = benchmark.Batches.random(model, 1, BATCH, "cpu")
    take = ours(model, batches, parts) if count else benchmark.published_step(model, batches)
    take(0)
    # Only the plain way through attention is seen by the counter.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        take(1)
    logits = 2 * BATCH * BATCH * model.visual.output_dim
    counted = sum(benchmark.operations(model, BATCH, parts))
    assert counted == pytest.approx(counter.get_total_flops() - 2 * logits, rel=1e-3)


def test_reordered_batches_hold_the_same_pairs(model: Any) -> None:
    batches = benchmark.Batches.random(model, 2, BATCH, "cpu")
    reordered = batches.reordered()
    assert not torch.equal(reordered.images, batches.images)
    losses = [benchmark.published_loss(model, both.images[1], both.texts[1]).item() for both in (batches, reordered)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
