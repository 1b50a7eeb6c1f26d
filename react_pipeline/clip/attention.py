"""open_clip's transformer block as a plain function of its weights, laid out for speed.

Does not belong here: self-attention itself (`gated`). Shapes: B images, T tokens, W width.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from react_pipeline.clip.gated import NO_CASTS, feed_forward, self_attention, token_at

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
        x = token_at(x, only)
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
