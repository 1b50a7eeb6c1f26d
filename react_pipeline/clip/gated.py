"""Gated blocks: the new modules that REACT trains (arXiv 2301.07094), and where they are attached
to an image tower.

Does not belong here: running a tower (`tower`), the loop (`training`). Shapes: B images, T tokens,
W width.
"""

import copy
import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from react_pipeline.clip.attention import feed_forward, self_attention
from react_pipeline.store import InputError

MLP_RATIO = 4
"""MLP ratio of the gated block, whatever the ratio of its host is."""


class GatedBlock(nn.Module):
    """A transformer block whose two branches are added through gates that start at zero.

    `y = x + tanh(alpha_attn) * MHA(LN1(x))`, then `y + tanh(alpha_dense) * MLP(LN2(y))`: at the
    start it passes its input on, bit for bit. Names of parameters are those of the released REACT
    checkpoints.
    """

    def __init__(self, norm: nn.LayerNorm, activation: nn.Module, heads: int) -> None:
        """Build a block for a tower whose `norm` and `activation` it takes over (their kind, not
        their weights).
        """
        super().__init__()
        width = norm.normalized_shape[0]
        hidden = MLP_RATIO * width
        self.alpha_attn = nn.Parameter(torch.zeros(()))
        self.ln_1 = type(norm)(width, eps=norm.eps)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.alpha_dense = nn.Parameter(torch.zeros(()))
        self.ln_2 = type(norm)(width, eps=norm.eps)
        layers = [
            ("c_fc", nn.Linear(width, hidden)),
            ("gelu", copy.deepcopy(activation)),
            ("c_proj", nn.Linear(hidden, width)),
        ]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, W) to the same shape."""
        x = x + self.alpha_attn.tanh() * self_attention(self.ln_1(x), self.attn)
        return x + self.alpha_dense.tanh() * feed_forward(self.ln_2(x), self.mlp)


def vision_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of the image tower, first to last: open_clip's own ViT or a
    timm ViT; else none.
    """
    visual: Any = model.visual
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):
        return list(visual.transformer.resblocks)
    blocks = list(getattr(getattr(visual, "trunk", None), "blocks", ()))
    is_vit = all(hasattr(block, "norm1") and hasattr(block.attn, "num_heads") for block in blocks)
    return blocks if is_vit else []


def add_gated_blocks(model: nn.Module, last_k_layers: int) -> None:
    """Put a gated block in front of each of the last `last_k_layers` blocks of the image tower, in
    place.

    The block becomes the host's submodule `gated_attn_block`; features do not change until it is
    trained.

    Raises:
        InputError: If the tower has fewer blocks or none (a ResNet, say), or has gated blocks
            already.
    """
    blocks = vision_blocks(model)
    if not blocks:
        visual: Any = model.visual
        raise InputError(
            f"gated blocks go between the blocks of a vision transformer, and a "
            f"{type(getattr(visual, 'trunk', visual)).__name__} has none; locked-text, full, "
            "locked-image and the heads fit it"
        )
    if not 0 < last_k_layers <= len(blocks):
        raise InputError(
            f"last_k_layers is {last_k_layers}, and the image tower has {len(blocks)} blocks"
        )
    if gated_layers(model):
        raise InputError("this model has gated blocks already")
    for host in blocks[-last_k_layers:]:
        host.gated_attn_block = _block_for(host)
        host.register_forward_pre_hook(_pass_gated_block_first)


def _block_for(host: Any) -> GatedBlock:
    if hasattr(host, "ln_1"):
        block = GatedBlock(host.ln_1, host.mlp.gelu, host.attn.num_heads)
    else:
        block = GatedBlock(host.norm1, host.mlp.act, host.attn.num_heads)
    return block.to(next(host.parameters()).device)


def _pass_gated_block_first(host: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (host.gated_attn_block(args[0]), *args[1:])


def register_gated_blocks() -> None:
    """Let open_clip itself build models with gated blocks, for the rest of this process.

    Its `create_model` then loads exported folders, models of the Hub and configurations whose
    `vision_cfg` has `react_cfg`, which it refuses otherwise.
    """
    for model in (CLIP, CustomTextCLIP):
        model.__init__ = _with_gated_blocks(model.__init__)


def _with_gated_blocks(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def build(
        model: nn.Module, embed_dim: int, vision_cfg: Any, *args: Any, **options: Any
    ) -> None:
        react_cfg: dict[str, Any] = {}
        if isinstance(vision_cfg, dict):
            vision_cfg = dict(vision_cfg)
            react_cfg = vision_cfg.pop("react_cfg", None) or {}
        init(model, embed_dim, vision_cfg, *args, **options)
        if react_cfg.get("enabled"):
            add_gated_blocks(model, react_cfg["last_k_layers"])

    return build


def gated_layers(model: nn.Module) -> dict[int, GatedBlock]:
    """Return the gated blocks by the number of the layer they precede; none in a tower that has no
    place for them.
    """
    blocks = (
        (number, getattr(host, "gated_attn_block", None))
        for number, host in enumerate(vision_blocks(model))
    )
    return {number: block for number, block in blocks if isinstance(block, GatedBlock)}


def gate_values(model: nn.Module) -> dict[str, Tensor]:
    """Return tanh(gate) of the gated blocks, as `gate_attn_<layer>` and `gate_dense_<layer>`, on
    their device.
    """
    return {
        f"gate_{name}_{number}": gate.detach().tanh()
        for number, block in gated_layers(model).items()
        for name, gate in (("attn", block.alpha_attn), ("dense", block.alpha_dense))
    }


def scale_gates(blocks: Iterable[GatedBlock], scale: float) -> None:
    """Multiply tanh(gate) of gated blocks by `scale`, in place: 0 is the model without them, 1
    changes nothing.

    For gated models this is WiSE-FT (arXiv 2109.01903): a line between the base and the customized
    model.
    """
    limit = 1 - 1e-6
    for block in blocks:
        for gate in (block.alpha_attn, block.alpha_dense):
            value = max(-limit, min(limit, scale * math.tanh(gate.item())))
            gate.data.fill_(math.atanh(value))
