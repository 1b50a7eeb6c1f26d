"""Dense features of MaskCLIP (arXiv 2112.01071): a unit vector for every patch of an image, in the
joint space, without any training.

In the last host block each patch keeps its own value; all other blocks, gated ones too, run as
trained. Does not belong here: what is measured. Shapes: B images of H x W pixels, T tokens of width
W on a grid h x w, D embedding dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from react_pipeline.clip import ImageTower
from react_pipeline.labelled import Unavailable


class DenseTower:
    """A vision transformer that gives a vector for every patch of images of any size. Its weights
    are shared and not changed.

    Attributes:
        size: Side of the images that the model was trained on, in pixels.
        stride: Pixels of a patch; sides must be multiples of it.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look at the tower.

        Raises:
            Unavailable: If it is no vision transformer of open_clip.
        """
        visual: Any = model.visual
        self.visual = visual
        self.tower = ImageTower(model)
        if not self.tower.native or getattr(visual, "attn_pool", None) is not None:
            raise Unavailable(f"{type(visual).__name__}: dense features need a ViT of open_clip")
        size = visual.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.stride = int(visual.patch_size[0])

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to unit vectors (B, h, w, D) and unit keys of the last block (B,
        h, w, W), which go through the output projection as in MaskCLIP.
        """
        tokens, keys = self._last_block(images)
        tokens = self.visual.ln_post(tokens)
        vectors = tokens if self.visual.proj is None else tokens @ self.visual.proj
        rows = images.shape[-2] // self.stride
        features, keys = (
            functional.normalize(part[:, 1:].unflatten(1, (rows, -1)).float(), dim=-1)
            for part in (vectors, keys)
        )
        return features, keys

    def _last_block(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to tokens after the last block and its projected keys, both (B, T, W)."""
        last = len(self.tower.blocks) - 1
        with self._positions_for(tuple(side // self.stride for side in images.shape[-2:])):
            x = self.tower.entering(last, images)
        host: Any = self.tower.blocks[last]
        if hasattr(host, "gated_attn_block"):
            x = host.gated_attn_block(x)
        attn = host.attn
        packed = functional.linear(host.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        _, key, value = packed.chunk(3, dim=-1)
        x = x + host.ls_1(attn.out_proj(value))
        return x + host.ls_2(host.mlp(host.ln_2(x))), attn.out_proj(key)

    @contextmanager
    def _positions_for(self, grid: tuple[int, ...]) -> Iterator[None]:
        """Let the tower have position embeddings for this grid: its own, resized bicubically."""
        visual = self.visual
        own = visual.positional_embedding
        if grid != tuple(visual.grid_size):
            square = own[1:].detach().float().T.unflatten(1, tuple(visual.grid_size))[None]
            resized = functional.interpolate(square, grid, mode="bicubic")[0].flatten(1).T
            positions = torch.cat([own[:1].detach(), resized.to(own.dtype)])
            visual.positional_embedding = nn.Parameter(positions, requires_grad=False)
        try:
            yield
        finally:
            visual.positional_embedding = own
