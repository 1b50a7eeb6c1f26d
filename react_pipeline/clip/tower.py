"""Image towers as training runs them: the frozen first blocks without a graph, the rest without
needless work.

Faster ways change no result beyond rounding. Does not belong here: the blocks' arithmetic
(`attention`), what is trained (`methods`), keeping what the frozen part gives (`training`). Shapes:
B images, T tokens, W width, D dimension.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from open_clip.transformer import VisionTransformer as NativeVisionTransformer
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from react_pipeline.clip.attention import cast_matrices, host_block, is_plain
from react_pipeline.clip.gated import GatedBlock, vision_blocks

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


class ImageTower:
    """The image tower of a model whose parameters are frozen or not already; in eval mode.

    Attributes:
        start: Number of the first block that trains, or that comes after something that trains.
        splits: Whether there is a frozen part before the trained one; only then `tokens` may be
            called.
        native: Whether it is open_clip's own ViT; `attention` can run its plain blocks.
    """

    def __init__(
        self, model: nn.Module, *, activation_checkpointing: bool = False, compiled: bool = False
    ) -> None:
        """Look at what trains; frozen weights are copied to bf16 only if `use_bf16` is called."""
        visual: Any = model.visual
        self.visual = visual
        self.activation_checkpointing = activation_checkpointing
        self.casts: dict[int, Tensor] = {}
        self.blocks = vision_blocks(model)  # none of a ResNet, say: it is trained as a whole
        own = all(type(block) is ResidualAttentionBlock for block in self.blocks)
        self.native = type(visual) is NativeVisionTransformer and own
        self._plain = [self.native and is_plain(block) for block in self.blocks]
        self._timm = isinstance(getattr(visual, "trunk", None), TimmVisionTransformer)
        trained = [self._place(n) for n, p in visual.named_parameters() if p.requires_grad]
        first = min(trained, default=len(self.blocks))
        self.splits = (self.native or self._timm) and 0 <= first < len(self.blocks)
        self.start = first if self.splits else 0
        # Where the embedding trains too, open_clip's own towers still take our faster way through
        # all their blocks.
        self._ours = self.splits or self.native
        if activation_checkpointing and not self._ours:
            visual.set_grad_checkpointing()  # the tower's own way; a ResNet has none and ignores it
        if compiled and self._ours:
            self.features = torch.compile(self.features)  # type: ignore[method-assign]

    def _place(self, name: str) -> int:
        """Return the number of the block with a parameter of the image tower; -1: before them."""
        if match := _BLOCK.match(name):
            return int(match[1])
        return len(self.blocks) if name.startswith(BEHIND_THE_BLOCKS) else -1

    def use_bf16(self, device: str) -> None:
        """Prepare for autocast to bf16 on a device, `cpu` or `cuda...`.

        Copies of the frozen matrices are kept in bf16, so that autocast need not cast them at every
        step. On a CPU, depthwise convolutions that train stay in float32: their backward pass in
        bf16 is slow (measured by `benchmarks.trained_towers`).
        """
        if device == "cpu":
            for module in self.visual.modules():
                is_depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
                if is_depthwise and module.weight.requires_grad:
                    module.forward = partial(_in_fp32, module.forward)
        if self.native:
            self.casts = cast_matrices(self.blocks, torch.bfloat16, frozen_only=True)

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
        for number in range(self.start, len(self.blocks)):
            if self.activation_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(self.block, number, tokens, use_reentrant=False)
            else:
                tokens = self.block(number, tokens)
        if self._timm:
            trunk = self.visual.trunk
            return self.visual.head(trunk.forward_head(trunk.norm(tokens)))
        pooled, _ = self.visual._pool(tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def block(self, number: int, tokens: Tensor) -> Tensor:
        """Run block `number` on tokens (B, T, W), its gated block first: (B, T, W), or (B, 1, W) if
        only one token is pooled.
        """
        block: Any = self.blocks[number]
        if not self._plain[number]:
            return block(tokens)
        gated = getattr(block, "gated_attn_block", None)
        if isinstance(gated, GatedBlock):
            tokens = gated(tokens)
        # What the pooling takes of the last block is its class token; the others need not be
        # computed.
        alone = (
            number == len(self.blocks) - 1
            and self.visual.pool_type == "tok"
            and self.visual.attn_pool is None
        )
        first = tokens.new_zeros(len(tokens), dtype=torch.long) if alone else None
        return host_block(tokens, block, self.casts, only=first)

    def entering(self, number: int, images: Tensor) -> Tensor:
        """Compute what enters block `number`, (B, T, W), from images (B, 3, H, W)."""
        first = 0 if self.native else number
        tokens = self._run_up_to(first, images)
        for earlier in range(first, number):
            tokens = self.block(earlier, tokens)
        return tokens

    def _run_up_to(self, number: int, images: Tensor) -> Tensor:
        """Compute what enters block `number` as the tower runs itself, with every peculiarity of
        its embedding.
        """

        def stop(_module: nn.Module, args: tuple[Any, ...]) -> None:
            raise _ReachedError(args[0])

        handle = self.blocks[number].register_forward_pre_hook(stop, prepend=True)
        try:
            self.visual(images)
        except _ReachedError as reached:
            return reached.tokens
        finally:
            handle.remove()
        raise AssertionError("the image tower never reached its own block")


class _ReachedError(Exception):
    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


def _in_fp32(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(images.float())
