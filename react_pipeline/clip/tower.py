"""Towers as training and embedding run them: without a graph for frozen first blocks of images, and
without the token positions that a result does not depend on; and which of their weights train.

Faster ways change no result beyond rounding. A text tower that attends backwards only and takes its
vector at the end-of-text token never looks at what follows that token. So the columns behind the
last end of text in a batch can be left out, and in the last block all tokens but that one, as for
images all but a class token that alone is pooled. Where padding is part of the result (no causal
mask, or pooling elsewhere, as SigLIP) every column stays. Towers of transformers hide padding by a
mask, so theirs can go too.

Does not belong here: self-attention itself (`gated`), what a method trains (`training.methods`),
keeping what the frozen part gives (`training`). Shapes: B images or texts, T tokens, L token ids, W
width, D dimension.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, TextTransformer
from open_clip.transformer import VisionTransformer as NativeVisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from react_pipeline.clip.device import compiled
from react_pipeline.clip.gated import (
    SLOPE,
    GatedBlock,
    feed_forward,
    normalised,
    self_attention,
    token_at,
    vision_blocks,
)
from react_pipeline.store import InputError

BEHIND_THE_BLOCKS = (
    "ln_post",
    "proj",
    "attn_pool",
    "trunk.norm.",
    "trunk.fc_norm",
    "trunk.head",
    "trunk.attn_pool",
    "head.",
)
"""Names of parameters that act after the last block, in open_clip's ViTs and in timm's."""

_BLOCK = re.compile(r"(?:transformer\.resblocks|trunk\.blocks)\.(\d+)\.")
_LOGIT = ("logit_scale", "logit_bias")
_PARTS = ("ln_1.", "attn.in_proj_", "attn.out_proj.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.")
_MATRICES = frozenset(part + kind for part in _PARTS for kind in ("weight", "bias"))
_WEIGHTS = _MATRICES | {"ls_1.gamma", "ls_2.gamma"}
"""Parameters that `host_block` knows."""

_FACTORS = {"mlp.c_fc.weight": SLOPE, "mlp.c_fc.bias": SLOPE, "mlp.c_proj.weight": 1 / SLOPE}
"""Factors of weights by which SiLU replaces QuickGELU in an MLP."""

_PARAMETRIZATION = re.compile(r"parametrizations\.(\w+)\..*")
"""The name that PyTorch gives to the parts of a weight that is parametrized."""


class ImageTower:
    """The image tower of a model whose parameters are frozen or not already; in eval mode.

    Attributes:
        start: Number of the first block that trains, or that comes after something that trains.
        splits: Whether there is a frozen part before the trained one; only then `tokens` may be
            called.
        blocks: Those that run: the model's own, or after `use_half` copies.
        native: Whether it is open_clip's own ViT.
    """

    def __init__(self, model: nn.Module, *, is_compiled: bool = False) -> None:
        """Look at what trains."""
        visual: Any = model.visual
        self.visual = visual
        self.blocks = vision_blocks(model)  # none of a ResNet, say: it is trained as a whole
        own = all(type(block) is ResidualAttentionBlock for block in self.blocks)
        self.native = type(visual) is NativeVisionTransformer and own
        self._plain = self.native and all(map(is_plain, self.blocks))
        # Of some kinds, such as two blocks side by side, no block is known.
        is_timm = isinstance(getattr(visual, "trunk", None), TimmVisionTransformer)
        self._timm = is_timm and bool(self.blocks)
        trained = [self._place(n) for n, p in visual.named_parameters() if p.requires_grad]
        first = min(trained, default=len(self.blocks))
        self.splits = (self.native or self._timm) and 0 <= first < len(self.blocks)
        self.start = first if self.splits else 0
        self._ours = self.native or self._timm
        if is_compiled and self._ours:
            self.features = compiled(self.features)  # type: ignore[method-assign]
            self.entering = compiled(self.entering)  # type: ignore[method-assign]

    def _place(self, name: str) -> int:
        """Return the number of the block with a parameter of the image tower; -1: before them."""
        if match := _BLOCK.match(name):
            return int(match[1])
        return len(self.blocks) if name.startswith(BEHIND_THE_BLOCKS) else -1

    def use_half(self, dtype: torch.dtype, *, frozen_only: bool = False) -> None:
        """Run copies of the blocks, see `half_blocks`; a tower of other blocks stays as it is."""
        if self._plain:
            self.blocks = half_blocks(self.blocks, dtype, frozen_only=frozen_only)

    def __call__(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to image features (B, D), not normalised."""
        if not self._ours:
            return self.visual(images)
        return self.features(self.tokens(images) if self.splits else self.entering(0, images))

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to what enters block `start` (B, T, W), without a graph."""
        return self.entering(self.start, images)

    def features(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, W) to image features (B, D), not normalised."""
        trunk = self.visual.trunk if self._timm else None
        # Only the class token may be needed of the last block.
        alone = self._plain and self.visual.pool_type == "tok" and self.visual.attn_pool is None
        tokens = _run(
            tokens,
            self.blocks[self.start :],
            plain=self._plain,
            only=tokens.new_zeros(len(tokens), dtype=torch.long) if alone else None,
            recompute=(trunk or self.visual.transformer).grad_checkpointing,
        )
        if trunk:
            return self.visual.head(trunk.forward_head(trunk.norm(tokens)))
        pooled, _ = self.visual._pool(tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def entering(self, number: int, images: Tensor) -> Tensor:
        """Compute what enters block `number`, (B, T, W), from images (B, 3, H, W)."""
        if self.native:
            tokens = self.visual._embeds(images)
        else:  # the first lines of timm's `forward_features`
            trunk = self.visual.trunk
            tokens = trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images)))
            tokens = trunk.norm_pre(tokens)
        return _run(tokens, self.blocks[:number], plain=self._plain)


def _run(
    x: Tensor,
    blocks: Sequence[nn.Module],
    *,
    plain: bool = True,
    causal: bool = False,
    only: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Run blocks on tokens (B, T, W): (B, T, W), or (B, 1, W) if only one token is needed.

    Args:
        plain: Whether `host_block` may compute them.
        causal: As for `self_attention`.
        only: Likewise, for the last of plain blocks.
        recompute: Keep what enters each block alone, and compute the rest again in the backward
            pass.
    """

    def run(block: Any, x: Tensor) -> Tensor:
        if not plain:
            return block(x)
        gated = getattr(block, "gated_attn_block", None)
        x = gated(x) if isinstance(gated, GatedBlock) else x
        alone = only if block is blocks[-1] else None
        return host_block(x, block, causal=causal, only=alone)

    again = recompute and torch.is_grad_enabled()
    for block in blocks:
        x = checkpoint(run, block, x, use_reentrant=False) if again else run(block, x)
    return x


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
    *,
    causal: bool = False,
    only: Tensor | None = None,
) -> Tensor:
    """Apply open_clip's `ResidualAttentionBlock` to tokens (B, T, W), without any gated block
    before it.

    The other arguments are those of `self_attention`; for one token alone the result is (B, 1, W).
    """
    attended = self_attention(normalised(x, block.ln_1), block.attn, causal=causal, only=only)
    if only is not None:
        x = token_at(x, only)
    x = x + block.ls_1(attended)
    return x + block.ls_2(feed_forward(normalised(x, block.ln_2), block.mlp))


def half_blocks(
    blocks: Iterable[Any], dtype: torch.dtype, *, frozen_only: bool = False
) -> list[nn.Module]:
    """Return copies of plain blocks with matrices in `dtype`, for use under autocast, which would
    make the same copies at every call.

    All else is shared: gated blocks, what trains if `frozen_only`, and on a CPU, whose autocast
    leaves them in fp32, norms.
    """
    copies = []
    for block in blocks:
        on_gpu = next(block.parameters()).is_cuda
        halved = {
            name: weight
            for name, weight in block.named_parameters()
            if name in _MATRICES
            and (on_gpu or not name.startswith("ln_"))
            and not (frozen_only and weight.requires_grad)
        }
        quick = on_gpu and isinstance(block.mlp.gelu, QuickGELU)
        factors = _FACTORS if quick and _FACTORS.keys() <= halved.keys() else {}
        shared = {id(weight): weight for weight in block.parameters()}
        for name, weight in halved.items():
            half = (factors.get(name, 1) * weight.detach()).to(dtype)
            shared[id(weight)] = nn.Parameter(half, requires_grad=False)
        copies.append(deepcopy(block, shared))
        if factors:
            copies[-1].mlp.gelu = nn.SiLU()
    return copies


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
    """Let the towers that train keep what enters each block alone, and compute the rest again in
    the backward pass.

    A ResNet has no way to do so, and text towers of transformers only would in training mode, which
    turns dropout on, so both stay as they are.
    """
    if trains_images(model):
        model.visual.set_grad_checkpointing()
    text = getattr(model, "text", model)
    if trains_text(model) and isinstance(text, CLIP | TextTransformer):
        text.transformer.grad_checkpointing = True


def encode_text(model: Any, tokens: Tensor, blocks: Sequence[nn.Module] | None = None) -> Tensor:
    """Map token ids (N, L) on the model's device to text features (N, D), not normalised.

    The same as the model's own `encode_text` but for rounding; the model is in eval mode.

    Args:
        tokens: Rows of one tokenizer; columns that no row needs (`text_lengths`) may be cut
            already.
        blocks: Copies of `text_blocks` to run in their place, by `half_blocks`.
    """
    tower = _causal_tower(model)
    if tower is None:
        return model.encode_text(tokens)
    ends = tokens.argmax(dim=1)
    dtype = tower.positional_embedding.dtype
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[: tokens.shape[1]]
    if blocks and x.is_cuda:  # as images, which come from a convolution
        x = x.to(next(blocks[0].parameters()).dtype)
    again = tower.transformer.grad_checkpointing
    blocks = blocks or tower.transformer.resblocks
    x = _run(x, blocks, causal=True, only=ends, recompute=again)
    # Each token is normalised by itself, so the norm may come after the choice of the token.
    x = tower.ln_final(x)[:, 0]
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def text_blocks(model: Any) -> list[nn.Module]:
    """Return the blocks that `encode_text` runs by plain functions; none for other towers."""
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


def in_text_tower(name: str) -> bool:
    """Return whether the parameter of this name belongs to the text tower."""
    # open_clip's CLIP keeps its text tower at the top level, next to `visual`; CustomTextCLIP keeps
    # it in `text`.
    return not name.startswith(("visual.", *_LOGIT))


def set_trainable(model: nn.Module, trains: Callable[[str], bool]) -> int:
    """Freeze every parameter but those whose name `trains` accepts; return how many numbers train.

    The logit scale always trains, as in REACT, and so does a logit bias where there is one.
    Statistics of batch normalisation stay frozen: models are trained in eval mode.

    Raises:
        InputError: If no name is accepted, as of a method whose new modules are not attached yet.
    """
    if not any(trains(name) for name, _ in model.named_parameters()):
        raise InputError("the model has no weights that would train; attach new modules first")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in _LOGIT or trains(name))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def text_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the text tower by name."""
    return {name: one for name, one in model.named_parameters() if in_text_tower(name)}


def trains_text(model: nn.Module) -> bool:
    """Return whether anything of the text tower trains, so that its vectors must be computed at
    every step.
    """
    return any(parameter.requires_grad for parameter in text_parameters(model).values())


def trains_images(model: Any) -> bool:
    """Return whether anything of the image tower trains."""
    return any(parameter.requires_grad for parameter in model.visual.parameters())
