"""Gated blocks: the new modules that REACT trains (arXiv 2301.07094), where they are attached to an
image tower, and their self-attention, laid out for speed.

This file needs torch and open_clip alone: a copy of it, `gated_blocks.py`, goes with each exported
model, and lets open_clip load it.

`nn.MultiheadAttention` transposes its input even where it need not; the linear layers behind it
then copy their weights once per token. In the memory order of (B, T, W) the same formula takes a
fraction of the time, above all in bf16. Does not belong here: running a tower (`tower`), the loop
(`training`). Shapes: B images, T tokens, W width, H heads.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as functional
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import LayerNorm, QuickGELU
from torch import Tensor, nn

try:
    from react_pipeline.store import InputError
except ImportError:  # a copy, where this package is not installed
    InputError = ValueError  # type: ignore[assignment, misc]

SLOPE = 1.702
"""The `a` of QuickGELU."""

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
        x = x + self.alpha_attn.tanh() * self_attention(normalised(x, self.ln_1), self.attn)
        return x + self.alpha_dense.tanh() * feed_forward(normalised(x, self.ln_2), self.mlp)


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
            moved = (scale * gate.detach().double().tanh()).clamp(-limit, limit)
            gate.data.copy_(moved.atanh())


def self_attention(
    x: Tensor,
    attn: nn.MultiheadAttention,
    *,
    causal: bool = False,
    only: Tensor | None = None,
) -> Tensor:
    """Apply `attn` to tokens (B, T, W): (B, T, W), or (B, 1, W) for one token alone.

    Args:
        x: Normalised tokens.
        attn: Packed projections with bias, no dropout.
        causal: A token attends to itself and to those before it.
        only: Positions (B,): compute the output of the token there and of no other.
    """
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    if only is None:
        query, key, value = (
            functional.linear(x, weight, bias).unflatten(2, (3, attn.num_heads, -1)).unbind(2)
        )
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=causal
        )
        joined = mixed.transpose(1, 2).flatten(2)
    else:
        joined = _one_token(x, weight, bias, attn.num_heads, only, causal=causal)
    return functional.linear(joined, attn.out_proj.weight, attn.out_proj.bias)


def token_at(x: Tensor, positions: Tensor) -> Tensor:
    """Select the token at `positions` (B,) of each row of tokens (B, T, W): (B, 1, W)."""
    return x[torch.arange(len(x), device=x.device), positions].unsqueeze(1)


def _one_token(
    x: Tensor, weight: Tensor, bias: Tensor, heads: int, position: Tensor, *, causal: bool
) -> Tensor:
    """Return what the token at `position` (B,) of (B, T, W) collects, (B, 1, W), before the output
    projection.

    With a single query no key or value need be computed: `q (K x)` is `(q K) x`, and the sum of `p
    (V x)` is `V` of the sum of `p x`. A key's bias adds the same to every score, which the softmax
    does not see; a value's bias is added once, since the shares `p` sum to 1.
    """
    batch, tokens, width = x.shape
    query = functional.linear(token_at(x, position)[:, 0], weight[:width], bias[:width]).view(
        batch, heads, -1
    )
    key, value = weight[width:].view(2, heads, -1, width).unbind()
    looked_for = torch.einsum("bhd,hdw->bhw", query * query.shape[-1] ** -0.5, key)
    scores = looked_for @ x.transpose(1, 2)
    if causal:
        behind = torch.arange(tokens, device=x.device) > position[:, None]
        scores = scores.masked_fill(behind[:, None], float("-inf"))
    shares = scores.softmax(dim=-1)
    output = torch.einsum("bhw,hdw->bhd", shares @ x, value)
    return output.reshape(batch, 1, width) + bias[2 * width :].to(output.dtype)


def feed_forward(x: Tensor, mlp: Any) -> Tensor:
    """Apply an MLP of the layers c_fc, gelu, c_proj to tokens (B, T, W).

    QuickGELU is x sigmoid(a x) = silu(a x) / a. In half precision on a GPU its weights take both
    factors, so that it is one kernel; copies in half precision have them already, and SiLU.
    """
    weight, bias, back = mlp.c_fc.weight, mlp.c_fc.bias, mlp.c_proj.weight
    is_quick = isinstance(mlp.gelu, QuickGELU)
    is_scaled = is_quick and _is_half_on_gpu(x)
    if is_scaled:
        weight, bias, back = SLOPE * weight, SLOPE * bias, 1 / SLOPE * back
    hidden = functional.linear(x, weight, bias)
    in_place = not hidden.requires_grad
    if is_quick and not is_scaled:
        hidden = functional.silu(hidden.mul_(SLOPE), in_place).div_(SLOPE)
    elif is_quick or isinstance(mlp.gelu, nn.SiLU):
        hidden = functional.silu(hidden, in_place)
    else:
        hidden = mlp.gelu(hidden)
    return functional.linear(hidden, back, mlp.c_proj.bias)


def normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """Apply a norm to tokens (B, T, W) in their own precision.

    CUDA's autocast would copy the tokens to fp32 and back; the kernel adds up in fp32 anyway.
    """
    if not (_is_half_on_gpu(x) and isinstance(norm, LayerNorm)):
        return norm(x)
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return functional.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _is_half_on_gpu(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and x.is_cuda


if __name__ == "gated_blocks":
    register_gated_blocks()
