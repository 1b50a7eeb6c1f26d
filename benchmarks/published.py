"""The published design of a step of REACT's `gated-image`, written out plainly, and our step.

What both steps train is here too: the model, the pairs, the recipe.
How steps are measured is in `benchmarks.customize`.

Shapes: N batches, B pairs of a batch, T tokens of an image, L token ids of a text, W width, D
embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from react_pipeline.clip import GatedBlock, add_gated_blocks
from react_pipeline.settings import TrainingConfig
from react_pipeline.training import GatedImage
from react_pipeline.training.customization import World
from react_pipeline.training.data import ImageEncoder
from react_pipeline.training.resume import TrainingState
from react_pipeline.training.schedule import MAX_LOG_SCALE, learning_rate, parameter_groups
from react_pipeline.training.step import TrainingStep

ARCHITECTURE, GATED = "ViT-B-32-quickgelu", 6
TRAINING = TrainingConfig(warmup_steps=2, steps=1_000)

Take = Callable[[int], float]
"""Takes step number n on batch n and returns its loss."""


@dataclass(frozen=True)
class Batches:
    """Random pairs: images (N, B, 3, H, W) and token ids (N, B, L)."""

    images: Tensor
    texts: Tensor

    @classmethod
    def random(cls, model: Any, count: int, size: int, device: str, seed: int = 0) -> Batches:
        """Images are patterns of few colours rather than noise, which a tower would average
        away.
        """
        rng = torch.Generator().manual_seed(seed)
        pixels, length = model.visual.image_size[0], model.context_length
        coarse = torch.randn(count * size, 3, 4, 4, generator=rng)
        images = functional.interpolate(coarse, size=pixels, mode="nearest").view(
            count, size, 3, pixels, pixels
        )
        last = model.vocab_size - 1  # the largest id ends a text; the tower pools there
        texts = torch.randint(1, last, (count, size, length), generator=rng)
        texts[..., -1] = last
        return cls(images.to(device), texts.to(device))

    def reordered(self) -> Batches:
        """The same pairs in another order within each batch: mathematically the same loss."""
        order = torch.randperm(self.images.shape[1], generator=torch.Generator().manual_seed(1))
        return Batches(self.images[:, order], self.texts[:, order])


def random_model(device: str, blocks_seed: int = 0) -> Any:
    """The model of this benchmark, of which the gated blocks and the logit scale train."""
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None)
    torch.manual_seed(1 + blocks_seed)
    add_gated_blocks(model, GATED)
    GatedImage().set_trainable(model)
    return model.to(device)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


# The published design: everything at every step, by the modules of open_clip and PyTorch.


def published_block(x: Tensor, block: GatedBlock) -> Tensor:
    """What the published gated block makes of tokens (B, T, W)."""
    normed = block.ln_1(x)
    x = x + block.alpha_attn.tanh() * block.attn(normed, normed, normed, need_weights=False)[0]
    return x + block.alpha_dense.tanh() * block.mlp(block.ln_2(x))


def published_features(visual: Any, images: Tensor) -> Tensor:
    """Image features (B, D), not normalised; gated blocks are checkpointed where their input has a
    gradient.
    """
    x = visual._embeds(images)
    for host in visual.transformer.resblocks:
        block = getattr(host, "gated_attn_block", None)
        if block is not None:
            forced = x.requires_grad
            x = (
                checkpoint(published_block, x, block, use_reentrant=False)
                if forced
                else published_block(x, block)
            )
        x = host.forward(x)  # `forward`, since calling the host would run our gated block before it
    pooled, _ = visual._pool(x)
    return pooled @ visual.proj


def published_loss(model: Any, images: Tensor, texts: Tensor) -> Tensor:
    """Symmetric InfoNCE of images (B, 3, H, W) and token ids (B, L)."""
    with torch.no_grad():
        text_features = functional.normalize(model.encode_text(texts), dim=-1)
    image_features = functional.normalize(published_features(model.visual, images), dim=-1)
    logits = model.logit_scale.exp() * image_features @ text_features.T
    target = torch.arange(len(logits), device=logits.device)
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2


def published_step(model: Any, batches: Batches) -> Take:
    """The published step; nothing is computed before it."""
    optimizer = adamw(model)

    def take(step: int) -> float:
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, TRAINING)
        optimizer.zero_grad()
        number = step % len(batches.images)
        loss = published_loss(model, batches.images[number], batches.texts[number])
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOG_SCALE)
        return loss.item()

    return take


def adamw(model: nn.Module, *, fused: bool | None = None) -> torch.optim.AdamW:
    """AdamW of the recipe; `fused` None is PyTorch's own choice, which is not the fused one."""
    groups = parameter_groups(trained(model).items(), TRAINING.weight_decay)
    return torch.optim.AdamW(
        groups, lr=TRAINING.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=fused
    )


# Ours: the classes that train.


class Texts:
    """Texts (N, L) of a frozen tower, each pair with its own, in place of `TrainingTexts`.
    `encode` gives the unit vectors (B, D) of the texts at some positions (B,).
    """

    caption_ids, class_ids = (staticmethod(ids) for ids in (Tensor.long, torch.zeros_like))

    def __init__(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Take the function."""
        self.vectors = encode


def training_step(
    model: Any, texts: Texts, size: int, device: str, *, bf16: bool, compiled: bool = False
) -> TrainingStep:
    """The step that trains, on batches of this size."""
    precision = "bf16" if bf16 else "fp32"
    training = TRAINING.model_copy(update={"precision": precision, "compile": compiled})
    world = World(device=device)
    scaler = torch.amp.GradScaler(world.device_type, enabled=False)
    state = TrainingState(trained(model), adamw(model, fused=True), scaler, size)
    model.eval()
    encoder = ImageEncoder(model, training, world)
    stand_in: Any = texts
    return TrainingStep(encoder, stand_in, state, GatedImage().loss)


def our_step(
    model: Any,
    batches: Batches,
    device: str,
    *,
    bf16: bool = False,
    tokens_kept: bool = False,
    compiled: bool = False,
) -> Take:
    """Our step: text vectors are kept, no block is checkpointed, the last one computes the class
    token alone.

    Args:
        bf16: By autocast, with frozen weights held in it.
        tokens_kept: What the frozen first blocks make of the images is kept too.
    """
    with torch.no_grad():
        parts = batches.texts.flatten(0, 1).split(256)
        vectors = torch.cat([model.encode_text(part, normalize=True) for part in parts])
    size = batches.images.shape[1]
    real = training_step(
        model, Texts(vectors.__getitem__), size, device, bf16=bf16, compiled=compiled
    )
    inputs: Sequence[Tensor] = batches.images
    if tokens_kept:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            inputs = [
                real.images.tower.tokens(images).to(torch.bfloat16) for images in batches.images
            ]

    def take(step: int) -> float:
        number = step % len(inputs)
        positions = torch.arange(number * size, (number + 1) * size)
        return real.take(step, inputs[number], positions)["loss"]

    return take
