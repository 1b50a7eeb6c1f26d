"""Text towers without needless work: only the token positions that a text's vector depends on.

A tower that attends backwards only and takes its vector at the end-of-text token never looks at
what follows that token. So the columns behind the last end of text in a batch can be left out, and
in the last block all tokens but that one. Where padding is part of the result (no causal mask, or
pooling elsewhere, as SigLIP) every column stays. Towers of transformers hide padding by a mask, so
theirs can go too. Shapes: N texts, L token ids, W width, D dimension.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from react_pipeline.clip.attention import NO_CASTS, host_block, is_plain


def text_lengths(model: Any, tokens: Tensor) -> Tensor:
    """Return how many of the first token ids of each row (N, L) its vector depends on, (N,)."""
    if _causal_tower(model) is not None:
        # The end of text has the largest id; what comes first of equal ones is where the tower
        # pools.
        return tokens.argmax(dim=1) + 1
    text = getattr(model, "text", None)
    if isinstance(text, HFTextEncoder):
        return (tokens != text.config.pad_token_id).sum(dim=1).clamp(min=1)
    return torch.full((len(tokens),), tokens.shape[1])


def recompute_activations(model: Any) -> None:
    """Let towers that `encode_text` leaves to themselves recompute their activations in the
    backward pass.

    open_clip's own do, whatever their mask. Towers of transformers only would in training mode,
    which turns dropout on, so theirs stay as they are.
    """
    text = getattr(model, "text", None)
    if isinstance(text, TextTransformer):
        text.set_grad_checkpointing()
    elif type(model) is CLIP:
        model.transformer.grad_checkpointing = True


def encode_text(
    model: Any,
    tokens: Tensor,
    casts: Mapping[int, Tensor] = NO_CASTS,
    *,
    activation_checkpointing: bool = False,
) -> Tensor:
    """Map token ids (N, L) on the model's device to text features (N, D), not normalised.

    The same as the model's own `encode_text` but for rounding; the model is in eval mode.

    Args:
        tokens: Rows of one tokenizer; columns that no row needs (`text_lengths`) may be cut
            already.
        casts: Copies of weights in a lower precision, by the id of the parameter, for use under
            autocast.
        activation_checkpointing: Keep what enters each block alone, and compute the rest again in
            the backward pass; for towers left to themselves `recompute_activations` says so
            instead.
    """
    tower = _causal_tower(model)
    if tower is None:
        return model.encode_text(tokens)
    ends = tokens.argmax(dim=1)
    dtype = tower.positional_embedding.dtype
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[: tokens.shape[1]]
    *blocks, final = tower.transformer.resblocks
    again = activation_checkpointing and torch.is_grad_enabled()
    for block in blocks:
        run = partial(host_block, block=block, casts=casts, causal=True)
        x = checkpoint(run, x, use_reentrant=False) if again else run(x)
    x = host_block(x, final, casts, causal=True, only=ends)  # of one token a text: little to keep
    # Each token is normalised by itself, so the norm may come after the choice of the token.
    x = tower.ln_final(x)[:, 0]
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def text_blocks(model: Any) -> list[nn.Module]:
    """Return the blocks that `encode_text` runs by plain functions, which may be given `casts`;
    none for other towers.
    """
    tower = _causal_tower(model)
    return [] if tower is None else list(tower.transformer.resblocks)


def _causal_tower(model: Any) -> Any:
    """Return what holds the text tower's parts, if it is open_clip's own, causal and pools at the
    end of text; else None.
    """
    if type(model) is CLIP:
        tower = model
        pool_type = model.text_pool_type
    elif type(getattr(model, "text", None)) is TextTransformer:
        tower = model.text
        if tower.cls_emb is not None or tower.output_tokens:
            return None
        pool_type = tower.pool_type
    else:
        return None
    plain = all(map(is_plain, tower.transformer.resblocks))
    # open_clip makes no other mask than the causal one.
    return tower if plain and tower.attn_mask is not None and pool_type == "argmax" else None
