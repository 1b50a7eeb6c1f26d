"""Customization against a second computation of it: plain tensor algebra in double precision, no
module of the tower.

What is written out here a second time: the image tower (patches, attention, MLP, norms), the gated
blocks, InfoNCE, its gradients by automatic differentiation of these formulas, the learning rate,
AdamW with its two groups, and the clamp of the logit scale. Shapes: B images, T tokens, W width, D
embedding dimension, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.methods import set_trainable, small_clip
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.testing import assert_close

from react_pipeline.clip import add_gated_blocks, gated_layers
from react_pipeline.settings import TrainingConfig
from react_pipeline.training import ImageEncoder, World, contrastive_loss
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import parameter_groups
from react_pipeline.training.step import TrainingStep

LAYERS, GATED, WIDTH, HEADS, PATCH, PIXELS, DIMENSION, BATCH = 3, 2, 32, 2, 16, 32, 16, 6
STEPS = 3
TRAINING = TrainingConfig(
    learning_rate=3e-3, warmup_steps=2, steps=10, weight_decay=0.1, precision="fp32"
)


VARIANTS: dict[str, dict[str, Any]] = {
    "GELU": {},
    "host MLP of bigG's ratio": {"mlp_ratio": 4.9231},
    "host MLP of ratio 2, QuickGELU": {"quick_gelu": True, "mlp_ratio": 2.0},
}
"""Kinds of towers: their activation, and the hidden width of the host's MLP."""
Weights = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


def judged_model(*, gates: float, quick_gelu: bool = False, mlp_ratio: float = 4.0) -> nn.Module:
    """A small CLIP with gated blocks whose gates all stand at `gates`."""
    vision = {"image_size": PIXELS, "layers": LAYERS, "width": WIDTH, "head_width": WIDTH // HEADS}
    vision |= {"patch_size": PATCH, "mlp_ratio": mlp_ratio}
    model: nn.Module = small_clip(vision, quick_gelu=quick_gelu, init_logit_scale=math.log(5))
    add_gated_blocks(model, GATED)
    for parameter in model.parameters():
        # Fresh biases are 0 and fresh norms 1: terms that are left out would not be missed.
        if parameter.ndim == 1:
            nn.init.normal_(parameter, parameter.mean().item(), std=0.2)
    for block in gated_layers(model).values():
        nn.init.constant_(block.alpha_attn, gates)
        nn.init.constant_(block.alpha_dense, -gates)
    return model.eval()


def batch() -> Batch:
    """Images (B, 3, 32, 32) and the unit vectors (B, D) of their captions."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, PIXELS, PIXELS, generator=generator)
    return images, normalize(torch.randn(BATCH, DIMENSION, generator=generator))


# The second computation. `w` holds the weights by the names of the released checkpoints.


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5) ** 0.5 * w[name + ".weight"] + w[name + ".bias"]


def attention(x: Tensor, w: Weights, name: str) -> Tensor:
    q, k, v = (x @ w[name + ".in_proj_weight"].T + w[name + ".in_proj_bias"]).split(WIDTH, dim=-1)
    depth = WIDTH // HEADS
    mixed = []
    for head in range(HEADS):
        part = slice(head * depth, (head + 1) * depth)
        exponentials = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(depth)).exp()
        mixed.append(exponentials / exponentials.sum(-1, keepdim=True) @ v[..., part])
    return torch.cat(mixed, -1) @ w[name + ".out_proj.weight"].T + w[name + ".out_proj.bias"]


def mlp(x: Tensor, w: Weights, name: str, quick: bool) -> Tensor:
    hidden = x @ w[name + ".c_fc.weight"].T + w[name + ".c_fc.bias"]
    erf = torch.erf(hidden / math.sqrt(2))
    hidden = hidden / (1 + (-1.702 * hidden).exp()) if quick else hidden * (1 + erf) / 2
    return hidden @ w[name + ".c_proj.weight"].T + w[name + ".c_proj.bias"]


def block(x: Tensor, w: Weights, name: str, quick: bool, gates: tuple[Any, Any]) -> Tensor:
    """A transformer block whose branches are multiplied by `gates`: (1, 1) is an ordinary one."""
    y = x + gates[0] * attention(norm(x, w, name + ".ln_1"), w, name + ".attn")
    return y + gates[1] * mlp(norm(y, w, name + ".ln_2"), w, name + ".mlp", quick)


def plain_features(images: Tensor, w: Weights, quick: bool) -> Tensor:
    """Image features (B, D), not normalised."""
    side = PIXELS // PATCH
    cut = images.reshape(-1, 3, side, PATCH, side, PATCH).permute(0, 2, 4, 1, 3, 5)
    patches = cut.reshape(len(images), side * side, -1) @ w["visual.conv1.weight"].flatten(1).T
    x = torch.cat([w["visual.class_embedding"].expand(len(images), 1, -1), patches], 1)
    x = norm(x + w["visual.positional_embedding"], w, "visual.ln_pre")
    for layer in range(LAYERS):
        name = f"visual.transformer.resblocks.{layer}"
        if layer >= LAYERS - GATED:
            extra = name + ".gated_attn_block"
            gates = (torch.tanh(w[extra + ".alpha_attn"]), torch.tanh(w[extra + ".alpha_dense"]))
            x = block(x, w, extra, quick, gates)
        x = block(x, w, name, quick, (1, 1))
    return norm(x[:, 0], w, "visual.ln_post") @ w["visual.proj"]


def plain_loss(data: Batch, w: Weights, quick: bool) -> Tensor:
    """The mean of -log softmax of the diagonal, over rows and over columns."""
    images, texts = data
    features = plain_features(images, w, quick)
    unit = features / (features**2).sum(1, keepdim=True) ** 0.5
    logits = w["logit_scale"].exp() * unit @ texts.T
    right = logits.diagonal()
    to_texts = (logits.exp().sum(1).log() - right).mean()
    to_images = (logits.exp().sum(0).log() - right).mean()
    return (to_texts + to_images) / 2


def plain_gradients(
    data: Batch, w: Weights, trained: list[str], quick: bool
) -> tuple[Tensor, Weights]:
    images, texts = data
    leaves = {name: value.clone().requires_grad_(name in trained) for name, value in w.items()}
    loss = plain_loss((images.double(), texts.double()), leaves, quick)
    found = torch.autograd.grad(loss, [leaves[name] for name in trained])
    return loss.detach(), dict(zip(trained, found, strict=True))


def plain_steps(data: Batch, w: Weights, trained: list[str], quick: bool) -> Weights:
    """Three steps of AdamW (betas 0.9 and 0.98, eps 1e-6), decay of matrices only, and the clamp to
    [0, ln 100].
    """
    w = dict(w)
    first, second = ({name: torch.zeros_like(w[name]) for name in trained} for _ in range(2))
    for step in range(STEPS):
        # Two steps of warm-up, then a cosine over the other eight.
        rate = 3e-3 * ((step + 1) / 2 if step < 2 else (1 + math.cos(math.pi * (step - 2) / 8)) / 2)
        _, gradients = plain_gradients(data, w, trained, quick)
        for name in trained:
            first[name] = 0.9 * first[name] + 0.1 * gradients[name]
            second[name] = 0.98 * second[name] + 0.02 * gradients[name] ** 2
            mean = first[name] / (1 - 0.9 ** (step + 1))
            square = second[name] / (1 - 0.98 ** (step + 1))
            decay = 0.1 if w[name].ndim >= 2 else 0.0
            w[name] = w[name] * (1 - rate * decay) - rate * mean / (square**0.5 + 1e-6)
        w["logit_scale"] = w["logit_scale"].clamp(0, math.log(100))
    return w


def library_step(model: Any, images: Tensor, texts: Tensor) -> Callable[[int], float]:
    """The library's own step, by its number; it returns the loss."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    groups = parameter_groups(trained.items(), TRAINING.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=TRAINING.learning_rate, betas=(0.9, 0.98), eps=1e-6)
    state = TrainingState(trained, optimizer, torch.amp.GradScaler("cpu", enabled=False), BATCH)
    encoder = ImageEncoder(model, TRAINING, World())
    # Stands for `TrainingTexts`: texts that all differ, of no class.
    same = torch.as_tensor
    of_texts: Any = SimpleNamespace(caption_ids=same, class_ids=same, vectors=texts.__getitem__)
    step = TrainingStep(encoder, of_texts, state, contrastive_loss)
    return lambda number: step.take(number, images, torch.arange(BATCH))["loss"]


def weights_of(model: nn.Module) -> Weights:
    return {name: value.detach().double() for name, value in model.state_dict().items()}


def trained_names(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ["gated-image", "locked-text"])
@pytest.mark.parametrize("gates", [0.0, 0.6], ids=["from closed gates", "from open gates"])
def test_loss_gradients_and_three_steps_equal_plain_algebra(
    variant: str, method: str, gates: float
) -> None:
    model, quick = judged_model(gates=gates, **VARIANTS[variant]), "QuickGELU" in variant
    set_trainable(model, method)
    before, trained = weights_of(model), trained_names(model)
    take = library_step(model, *batch())
    expected_loss, gradients = plain_gradients(batch(), before, trained, quick)
    assert take(0) == pytest.approx(float(expected_loss), rel=1e-5)
    whole = 0 if method == "gated-image" else 7 + 12 * LAYERS + 1
    assert len(gradients) == 14 * GATED + 1 + whole
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert not gates or gradients[name].abs().max() > 1e-4, name
            assert_close(parameter.grad.double(), gradients[name], atol=1e-5, rtol=1e-5)
        else:
            assert parameter.grad is None
    for number in range(1, STEPS):
        take(number)
    expected = plain_steps(batch(), before, trained, quick)
    for name, value in weights_of(model).items():
        if name not in trained:
            assert torch.equal(value, before[name]), name
            continue
        # A single number may turn round on the way; a tensor as a whole has moved ten times the
        # tolerance.
        moved = (expected[name] - before[name]).abs().max()
        assert moved > (1e-3 if value.ndim else 0), f"{name} has not moved"
        assert_close(value, expected[name], atol=1e-4, rtol=0)


def test_the_logit_scale_stops_at_100() -> None:
    model = judged_model(gates=0.6).requires_grad_(False)
    model.logit_scale.requires_grad_(True)
    images, _ = batch()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100) - 1e-3)
        features = model.encode_image(images, normalize=True)
    take = library_step(model, images, features)  # texts that fit push the scale up
    for number in range(STEPS):
        take(number)
    assert model.logit_scale.item() == pytest.approx(math.log(100), abs=1e-6)
