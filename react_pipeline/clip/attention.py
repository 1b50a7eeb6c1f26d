"""Self-attention and transformer blocks as plain functions of their modules' weights, laid out for
speed.

`nn.MultiheadAttention` transposes its input even where it need not; the linear layers behind it
then copy their weights once per token. In the memory order of (B, T, W) the same formula takes a
fraction of the time, above all in bf16. Shapes: B images, T tokens, W width, H heads.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

NO_CASTS: Mapping[int, Tensor] = {}

_PARTS = ("ln_1", "attn", "attn.out_proj", "ls_1", "ln_2", "mlp.c_fc", "mlp.c_proj", "ls_2")
_WEIGHTS = frozenset(
    {
        "attn.in_proj_weight",
        "attn.in_proj_bias",
        *(f"{part}.{kind}" for part in _PARTS for kind in ("weight", "bias", "gamma")),
    }
)
"""Parameters that `host_block` knows."""

_PARAMETRIZATION = re.compile(r"parametrizations\.(\w+)\..*")
"""The name that PyTorch gives to the parts of a weight that is parametrized."""


def self_attention(
    x: Tensor,
    attn: nn.MultiheadAttention,
    casts: Mapping[int, Tensor] = NO_CASTS,
    *,
    causal: bool = False,
    only: Tensor | None = None,
) -> Tensor:
    """Apply `attn` to tokens (B, T, W): (B, T, W), or (B, 1, W) for one token alone.

    Args:
        x: Normalised tokens.
        attn: Packed projections with bias, no dropout.
        casts: Copies of frozen weights in a lower precision, by the id of the parameter.
        causal: A token attends to itself and to those before it.
        only: Positions (B,): compute the output of the token there and of no other.
    """
    weight = _cast(attn.in_proj_weight, casts)
    bias = _cast(attn.in_proj_bias, casts)
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
    return functional.linear(
        joined, _cast(attn.out_proj.weight, casts), _cast(attn.out_proj.bias, casts)
    )


def _token_at(x: Tensor, positions: Tensor) -> Tensor:
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
    query = functional.linear(_token_at(x, position)[:, 0], weight[:width], bias[:width]).view(
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


def feed_forward(x: Tensor, mlp: Any, casts: Mapping[int, Tensor] = NO_CASTS) -> Tensor:
    """Apply an MLP of the layers c_fc, gelu, c_proj to tokens (B, T, W)."""
    hidden = functional.linear(x, _cast(mlp.c_fc.weight, casts), _cast(mlp.c_fc.bias, casts))
    hidden = _QuickGelu.apply(hidden) if isinstance(mlp.gelu, QuickGELU) else mlp.gelu(hidden)
    return functional.linear(hidden, _cast(mlp.c_proj.weight, casts), _cast(mlp.c_proj.bias, casts))


def is_plain(block: nn.Module) -> bool:
    """Return whether `host_block` computes all that a block does, but for a gated block before it.

    A module that a method adds inside has weights of its own, which that formula would ignore; a
    weight that it parametrizes is read as it is used.
    """
    names = {
        _PARAMETRIZATION.sub(r"\1", name)
        for name, _ in block.named_parameters()
        if not name.startswith("gated_attn_block.")
    }
    return type(block) is ResidualAttentionBlock and names <= _WEIGHTS


def host_block(
    x: Tensor,
    block: Any,
    casts: Mapping[int, Tensor] = NO_CASTS,
    *,
    causal: bool = False,
    only: Tensor | None = None,
) -> Tensor:
    """Apply open_clip's `ResidualAttentionBlock` to tokens (B, T, W), without any gated block
    before it.

    The other arguments are those of `self_attention`; for one token alone the result is (B, 1, W).
    """
    attended = self_attention(block.ln_1(x), block.attn, casts, causal=causal, only=only)
    if only is not None:
        x = _token_at(x, only)
    x = x + block.ls_1(attended)
    return x + block.ls_2(feed_forward(block.ln_2(x), block.mlp, casts))


def cast_matrices(
    blocks: Iterable[nn.Module], dtype: torch.dtype, *, frozen_only: bool = False
) -> dict[int, Tensor]:
    """Return copies in `dtype` of the blocks' weights that meet a matrix product, by the id of the
    parameter, for `casts`.

    Autocast would make the same copies at every call. Gated blocks are left to it.
    """
    return {
        id(parameter): parameter.detach().to(dtype)
        for block in blocks
        for name, parameter in block.named_parameters()
        if name.startswith(("attn.", "mlp.")) and not (frozen_only and parameter.requires_grad)
    }


def _cast(parameter: Tensor, casts: Mapping[int, Tensor]) -> Tensor:
    return casts.get(id(parameter), parameter)


class _QuickGelu(torch.autograd.Function):
    """x * sigmoid(1.702 x), keeping its input alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (1.702 * x).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = (1.702 * x).sigmoid_()
        # d/dx of x s(ax) is s + a x s (1 - s).
        slope = torch.addcmul(share, (1 - share).mul_(share), x, value=1.702)
        return slope.mul_(gradients[0])
