"""Gated blocks: the new modules that REACT trains, and the split of an image tower where they begin.

Belongs here: the block, where it is attached, what can be computed once because nothing before it trains. Does not
belong here: loading and saving (`model`), the training loop (`customize`).

Source of the method: REACT (arXiv 2301.07094), gated-image customization. Shapes: B images, T tokens, W width.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from react_pipeline.errors import InputError

MLP_RATIO = 4
"""Of the gated block, whatever the host's own ratio is."""


class GatedBlock(nn.Module):
    """A transformer block whose two branches are added through gates that start at zero.

    `y = x + tanh(alpha_attn) * MHA(LN1(x))`, then `y + tanh(alpha_dense) * MLP(LN2(y))`: at the start it passes its
    input on, bit for bit. Names of parameters are those of the released REACT checkpoints.
    """

    def __init__(self, norm: nn.LayerNorm, activation: nn.Module, heads: int, *, batch_first: bool) -> None:
        """Build a block for a tower whose `norm` and `activation` it takes over (their kind, not their weights)."""
        super().__init__()
        width = norm.normalized_shape[0]
        hidden = MLP_RATIO * width
        self.alpha_attn = nn.Parameter(torch.zeros(()))
        self.ln_1 = type(norm)(width, eps=norm.eps)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=batch_first)
        self.alpha_dense = nn.Parameter(torch.zeros(()))
        self.ln_2 = type(norm)(width, eps=norm.eps)
        layers = [
            ("c_fc", nn.Linear(width, hidden)),
            ("gelu", copy.deepcopy(activation)),
            ("c_proj", nn.Linear(hidden, width)),
        ]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, W), or (T, B, W) where the tower is not batch-first, to the same shape."""
        normed = self.ln_1(x)
        x = x + self.alpha_attn.tanh() * self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.alpha_dense.tanh() * self.mlp(self.ln_2(x))


def vision_blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of the image tower, first to last: open_clip's own ViT or a timm ViT.

    Raises:
        InputError: If the tower has none (a ResNet, say).
    """
    visual: Any = model.visual
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):
        return list(visual.transformer.resblocks)
    blocks = list(getattr(getattr(visual, "trunk", None), "blocks", ()))
    if blocks and all(hasattr(block, "norm1") and hasattr(block.attn, "num_heads") for block in blocks):
        return blocks
    raise InputError(f"{type(visual).__name__}: gated blocks need a vision transformer, and this tower is none")


def add_gated_blocks(model: nn.Module, last_k_layers: int) -> None:
    """Put a gated block in front of each of the last `last_k_layers` blocks of the image tower, in place.

    The block becomes the host's submodule `gated_attn_block`; features do not change until it is trained.

    Raises:
        InputError: If the tower has fewer blocks, or has gated blocks already.
    """
    blocks = vision_blocks(model)
    if not 0 < last_k_layers <= len(blocks):
        raise InputError(f"last_k_layers is {last_k_layers}, and the image tower has {len(blocks)} blocks")
    if gated_layers(model):
        raise InputError("this model has gated blocks already")
    for host in blocks[-last_k_layers:]:
        host.gated_attn_block = _block_for(host)
        host.register_forward_pre_hook(_pass_gated_block_first)


def _block_for(host: Any) -> GatedBlock:
    if hasattr(host, "ln_1"):
        block = GatedBlock(host.ln_1, host.mlp.gelu, host.attn.num_heads, batch_first=host.attn.batch_first)
    else:
        block = GatedBlock(host.norm1, host.mlp.act, host.attn.num_heads, batch_first=True)
    reference = next(host.parameters())
    return block.to(reference.device)


def _pass_gated_block_first(host: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (host.gated_attn_block(args[0]), *args[1:])


def gated_layers(model: nn.Module) -> dict[int, GatedBlock]:
    """The gated blocks by the number of the layer they stand before."""
    found = {}
    for number, host in enumerate(vision_blocks(model)):
        block = getattr(host, "gated_attn_block", None)
        if isinstance(block, GatedBlock):
            found[number] = block
    return found


def scale_gates(model: nn.Module, scale: float) -> None:
    """Multiply tanh(gate) of every gated block by `scale`, in place: 0 is the base model, 1 changes nothing.

    For gated models this is WiSE-FT (arXiv 2109.01903): a line between the base and the customized model.
    """
    limit = 1 - 1e-6
    for block in gated_layers(model).values():
        for gate in (block.alpha_attn, block.alpha_dense):
            value = max(-limit, min(limit, scale * math.tanh(gate.item())))
            gate.data.fill_(math.atanh(value))


class _ReachedError(Exception):
    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


class FrozenPrefix:
    """The part of an image tower before its first trained block, so that it can be computed once per image.

    `features(tokens(images))` equals the tower's output bit for bit.
    """

    def __init__(self, model: nn.Module, start: int) -> None:
        """Split before block `start`; use `frozen_prefix` to find it."""
        self.visual: Any = model.visual
        self.blocks = vision_blocks(model)
        self.start = start
        self.batch_first: bool = getattr(getattr(self.visual, "transformer", None), "batch_first", True)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to what enters the first trained block (B, T, W), without a graph."""

        def stop(_module: nn.Module, args: tuple[Any, ...]) -> None:
            raise _ReachedError(args[0])

        # Running the tower itself up to the block keeps every peculiarity of its embedding layers.
        handle = self.blocks[self.start].register_forward_pre_hook(stop, prepend=True)
        try:
            self.visual(images)
        except _ReachedError as reached:
            return reached.tokens if self.batch_first else reached.tokens.transpose(0, 1)
        finally:
            handle.remove()
        raise AssertionError("the image tower never reached its own block")

    def features(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, W) to image features (B, D), not normalised."""
        x = tokens if self.batch_first else tokens.transpose(0, 1)
        for block in self.blocks[self.start :]:
            x = block(x)
        if not self.batch_first:
            x = x.transpose(0, 1)
        if hasattr(self.visual, "trunk"):
            trunk = self.visual.trunk
            return self.visual.head(trunk.forward_head(trunk.norm(x)))
        pooled, _ = self.visual._pool(x)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


def frozen_prefix(model: nn.Module) -> FrozenPrefix | None:
    """The frozen part of the image tower, or None where something before the blocks trains or the tower is unusual."""
    blocks = vision_blocks(model)
    visual: Any = model.visual
    usual = hasattr(visual, "transformer") or isinstance(getattr(visual, "trunk", None), TimmVisionTransformer)
    trained = [number for number, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())]
    if not usual or not trained:
        return None
    in_blocks = {id(parameter) for block in blocks for parameter in block.parameters()}
    before = [parameter for parameter in _embedding_parameters(visual) if id(parameter) not in in_blocks]
    if any(parameter.requires_grad for parameter in before):
        return None
    return FrozenPrefix(model, trained[0])


def _embedding_parameters(visual: Any) -> list[nn.Parameter]:
    """Parameters that act before the blocks: all but the norm, pooling and projection behind them."""
    behind = ("ln_post", "proj", "attn_pool", "trunk.norm.", "trunk.fc_norm", "trunk.head", "trunk.attn_pool", "head.")
    return [parameter for name, parameter in visual.named_parameters() if not name.startswith(behind)]
