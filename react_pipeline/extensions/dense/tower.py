"""Dense features: a unit vector for every patch of an image, in the joint space, without any
training.

Sources: MaskCLIP (arXiv 2112.01071), SCLIP (2312.01597), ClearCLIP (2407.12442), NACLIP
(2404.08181) for the attention of the last host block (all others, gated ones too, run as trained);
RegionCLIP (2112.09106) for regions of a ResNet. Does not belong here: windows over an image, what
is measured. Shapes: B images of H x W pixels, T tokens of width W on a grid h x w, D embedding
dimension, R regions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as functional
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torchvision.ops import roi_align

from react_pipeline.clip import ImageTower
from react_pipeline.labelled import Unavailable

from .settings import ATTENTIONS

GAUSSIAN_STD = 5.0
"""Of NACLIP's neighbourhood, in patches."""

BOX_STRIDE = 16
"""Pixels for one position of the map of a ResNet that regions are cut from, the one before its last
stage.
"""


class DenseTower:
    """An image tower that gives a vector for every patch, or for every box, of images of any size.

    Attributes:
        size: Side of the images that the model was trained on, in pixels.
        stride: Pixels of a patch; where sides are not multiples of it, what is left over is cut
            off.
    """

    def __init__(self, model: nn.Module, attention: str = "value") -> None:
        """Look at the tower; its weights are shared and not changed.

        Args:
            attention: Of the last host block, a key of `ATTENTIONS`: `model` is its own, `value`
                none (identity).

        Raises:
            Unavailable: If the tower is neither a vision transformer of open_clip nor a CLIP
                ResNet, or a ResNet asked for another attention than `value`.
        """
        visual: Any = model.visual
        self.visual = visual
        self.attention = attention
        self.is_resnet = isinstance(visual, ModifiedResNet)
        self.tower = ImageTower(model)
        pools_by_attention = getattr(visual, "attn_pool", None) is not None
        if not self.is_resnet and (not self.tower.native or pools_by_attention):
            raise Unavailable(
                f"{type(visual).__name__}: dense features need a ViT of open_clip or a CLIP "
                "ResNet; use crops"
            )
        if self.is_resnet and attention != "value":
            raise Unavailable(
                f"dense.attention: {attention!r} needs a vision transformer; a ResNet has `value` "
                "alone"
            )
        size = visual.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.stride = 2 * BOX_STRIDE if self.is_resnet else int(visual.patch_size[0])

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to unit vectors (B, h, w, D) and unit keys of the last block (B,
        h, w, W).

        A ViT's keys go through the output projection, as in MaskCLIP; a ResNet's are those of its
        attention pool.
        """
        if self.is_resnet:
            grid = self._stages(images, 4).permute(0, 2, 3, 1)
            pool = self.visual.attnpool
            parts = pool.c_proj(pool.v_proj(grid)), pool.k_proj(grid)
        else:
            tokens, keys = (part[:, 1:] for part in self.tokens(images))
            rows = images.shape[-2] // self.stride
            parts = self._project(tokens).unflatten(1, (rows, -1)), keys.unflatten(1, (rows, -1))
        features, keys = (functional.normalize(part.float(), dim=-1) for part in parts)
        return features, keys

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to the tokens after the last block and its projected keys, both
        (B, T, W).
        """
        last = len(self.tower.blocks) - 1
        grid = tuple(side // self.stride for side in images.shape[-2:])
        with self._positions_for(grid):
            x = self.tower.entering(last, images)
        host: Any = self.tower.blocks[last]
        if hasattr(host, "gated_attn_block"):
            x = host.gated_attn_block(x)
        attn = host.attn
        packed = functional.linear(host.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        heads = packed.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        mixed = self._mix(query, key, value, grid)
        attended = host.ls_1(attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        keys = attn.out_proj(key.transpose(1, 2).flatten(2))
        if not ATTENTIONS[self.attention]:
            return attended, keys
        x = x + attended
        return x + host.ls_2(host.mlp(host.ln_2(x))), keys

    def regions(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Return unit vectors (R, D) of boxes (R, 4), x0 y0 x1 y1 in pixels of an image (1, 3, H,
        W).

        Of a ViT the mean of its dense vectors over the box; of a ResNet RegionCLIP's: RoIAlign
        before the last stage, then this and the attention pool.
        """
        if self.is_resnet:
            side = self.size // BOX_STRIDE
            parts = roi_align(self._stages(image, 3), [boxes], side, 1 / BOX_STRIDE, aligned=True)
            vectors = self.visual.attnpool(self.visual.layer4(parts)).float()
        else:
            features = self(image)[0].permute(0, 3, 1, 2)
            # One bin that is sampled once for each patch it covers: over the whole map it is the
            # mean of all patches.
            scale = features.shape[-1] / image.shape[-1]
            vectors = roi_align(features, [boxes.float()], 1, scale, aligned=True)[:, :, 0, 0]
        return functional.normalize(vectors, dim=-1)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, ...]) -> Tensor:
        attend = functional.scaled_dot_product_attention
        if self.attention == "value":
            return value
        if self.attention == "model":
            return attend(query, key, value)
        if self.attention == "kk+gauss":
            return attend(key, key, value, attn_mask=_near(grid).to(value))
        mixed = attend(query, query, value)
        return mixed + attend(key, key, value) if self.attention == "qq+kk" else mixed

    def _project(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, W) to (B, T, D), each as the model maps what it pools."""
        tokens = self.visual.ln_post(tokens)
        return tokens if self.visual.proj is None else tokens @ self.visual.proj

    def _stages(self, images: Tensor, count: int) -> Tensor:
        visual = self.visual
        x = visual.stem(images)
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4)[:count]:
            x = stage(x)
        return x

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


def _near(grid: tuple[int, ...]) -> Tensor:
    """Return the Gaussian of the distance of two patches (T, T); 0 with the class token."""
    rows, columns = grid
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    near = torch.exp(-torch.cdist(places, places).square() / (2 * GAUSSIAN_STD**2))
    return functional.pad(near, (1, 0, 1, 0))
