"""Dense features: a unit vector for every patch of an image, in the joint space, without any
training.

Sources: MaskCLIP (arXiv 2112.01071), SCLIP (2312.01597), ClearCLIP (2407.12442), NACLIP
(2404.08181) for the attention of the last host block (all others, gated ones too, run as trained);
RegionCLIP (2112.09106) for regions of a ResNet. Does not belong here: windows over an image, what
is measured (`benchmark`). Shapes: B images of H x W pixels, T tokens of width W on a grid h x w, D
embedding dimension, R regions.
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
from react_pipeline.store import InputError

from .settings import ATTENTIONS

GAUSSIAN_STD = 5.0
"""Of NACLIP's neighbourhood, in patches."""

BOX_STRIDE = 16
"""Pixels for one position of the map of a ResNet that regions are cut from, the one before its last
stage.
"""


class DenseTower:
    """An image tower that gives a vector for every patch, or for every box.

    Attributes:
        size: Side of the images that the model was trained on, in pixels.
        stride: Pixels of a patch; where sides are not multiples of it, what is left over is cut
            off.
        any_size: Whether images of other sizes are possible: timm's towers take their own size
            alone.
    """

    def __init__(
        self,
        model: nn.Module,
        attention: str = "value",
        residual: bool | None = None,
        mlp: bool | None = None,
    ) -> None:
        """Look at the tower; its weights are shared and not changed.

        Args:
            attention: Of the last host block, a key of `ATTENTIONS`: `model` is its own, `value`
                none (identity).
            residual: Whether the attention's output is added to its input; unset: as published for
                this attention.
            mlp: Whether the block's MLP follows, with its residual; unset: as published.

        Raises:
            InputError: If the tower is neither a vision transformer nor a CLIP ResNet, or a ResNet
                asked for another attention than `value`.
        """
        visual: Any = model.visual
        self.visual = visual
        self.attention = attention
        published = ATTENTIONS[attention]
        self.residual = published[0] if residual is None else residual
        self.mlp = published[1] if mlp is None else mlp
        self.is_resnet = isinstance(visual, ModifiedResNet)
        self.tower = ImageTower(model)
        self._positions: dict[tuple[int, int], nn.Parameter] = {}
        pooled_by_attention = getattr(visual, "attn_pool", None) is not None
        usable = hasattr(visual, "trunk") or (self.tower.native and not pooled_by_attention)
        if not self.is_resnet and not (self.tower.blocks and usable):
            raise InputError(
                f"{type(visual).__name__}: dense features need a ViT or a CLIP ResNet; use crops"
            )
        if self.is_resnet and attention != "value":
            raise InputError(
                f"dense.attention: {attention!r} needs a vision transformer; a ResNet has `value` "
                "alone"
            )
        size = visual.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.any_size = self.is_resnet or self.tower.native
        self._prefix = 1  # tokens that are no patch
        if self.is_resnet:
            self.stride = 2 * BOX_STRIDE
        elif self.tower.native:
            self.stride = int(visual.patch_size[0])
        else:
            self.stride = self.size // int(visual.trunk.patch_embed.grid_size[0])
            self._prefix = int(visual.trunk.num_prefix_tokens)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to unit vectors (B, h, w, D) and unit keys of the last block (B,
        h, w, W).

        A ResNet's keys are those of its attention pool.
        """
        if self.is_resnet:
            grid = self._stages(images, 4).permute(0, 2, 3, 1)
            pool = self.visual.attnpool
            features = pool.c_proj(pool.v_proj(grid))
            keys = pool.k_proj(grid)
            return functional.normalize(features.float(), dim=-1), functional.normalize(
                keys.float(), dim=-1
            )
        tokens, keys = self.tokens(images)
        parts = self._alone(tokens[:, self._prefix :]), keys[:, self._prefix :]
        features, keys = (
            functional.normalize(part.float(), dim=-1).unflatten(1, self._grid) for part in parts
        )
        return features, keys

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to the tokens after the last block and its keys, both (B,
        T, W).
        """
        last = len(self.tower.blocks) - 1
        with self._positions_for(images):
            tokens = self.tower.entering(last, images)
        host: Any = self.tower.blocks[last]
        if hasattr(host, "gated_attn_block"):
            tokens = host.gated_attn_block(tokens)
        return self._last(tokens, host)

    def regions(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Unit vectors (R, D) of boxes (R, 4), x0 y0 x1 y1 in pixels of an image (1, 3, H, W).

        Of a ViT the mean of its dense vectors over the box; of a ResNet RegionCLIP's: RoIAlign
        before the last stage, then this and the attention pool.
        """
        if self.is_resnet:
            side = self.size // BOX_STRIDE
            parts = roi_align(self._stages(image, 3), [boxes], side, 1 / BOX_STRIDE, aligned=True)
            return functional.normalize(
                self.visual.attnpool(self.visual.layer4(parts)).float(), dim=-1
            )
        features = self(image)[0].permute(0, 3, 1, 2)
        # One bin that is sampled once for each patch it covers: over the whole map it is the mean
        # of all patches.
        means = roi_align(
            features, [boxes.float()], 1, features.shape[-1] / image.shape[-1], aligned=True
        )
        return functional.normalize(means[:, :, 0, 0], dim=-1)

    def _last(self, x: Tensor, host: Any) -> tuple[Tensor, Tensor]:
        native = self.tower.native
        normed = host.ln_1(x) if native else host.norm1(x)
        if native:
            packed = functional.linear(normed, host.attn.in_proj_weight, host.attn.in_proj_bias)
        else:
            packed = host.attn.qkv(normed)
        query, key, value = packed.unflatten(-1, (3, host.attn.num_heads, -1)).permute(
            2, 0, 3, 1, 4
        )
        if not native:
            query = host.attn.q_norm(query)
            key = host.attn.k_norm(key)
        mixed = self._mixed(query, key, value).transpose(1, 2).flatten(2)
        projected = host.attn.out_proj(mixed) if native else host.attn.proj(mixed)
        attended = host.ls_1(projected) if native else host.ls1(projected)
        x = x + attended if self.residual else attended
        if self.mlp:
            added = host.mlp(host.ln_2(x) if native else host.norm2(x))
            x = x + (host.ls_2(added) if native else host.ls2(added))
        return x, key.transpose(1, 2).flatten(2)

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attend = functional.scaled_dot_product_attention
        if self.attention == "value":
            return value
        if self.attention == "model":
            return attend(query, key, value)
        if self.attention == "kk+gauss":
            return attend(key, key, value, attn_mask=self._near(value).to(value.dtype))
        mixed = attend(query, query, value)
        return mixed + attend(key, key, value) if self.attention == "qq+kk" else mixed

    def _near(self, value: Tensor) -> Tensor:
        """The Gaussian of the distance of two patches (T, T); 0 with a token that is not a
        patch.
        """
        rows, columns = self._grid
        places = (
            torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float().to(value.device)
        )
        near = torch.exp(-torch.cdist(places, places).square() / (2 * GAUSSIAN_STD**2))
        return functional.pad(near, (self._prefix, 0, self._prefix, 0))

    def _alone(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, W) to (B, T, D): each goes through the tower's pooling as if it were
        the only one.

        It is its own class token there, and the mean or the attention over one token is the token.
        """
        batch, count, width = tokens.shape
        alone = tokens.reshape(-1, 1, width).expand(-1, 1 + self._prefix, -1)
        if self.tower.native:
            pooled, _ = self.visual._pool(alone)
            pooled = pooled if self.visual.proj is None else pooled @ self.visual.proj
        else:
            pooled = self.visual.head(self.visual.trunk.forward_head(self.visual.trunk.norm(alone)))
        return pooled.unflatten(0, (batch, count))

    def _stages(self, images: Tensor, count: int) -> Tensor:
        visual = self.visual
        x = visual.stem(images)
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4)[:count]:
            x = stage(x)
        return x

    @contextmanager
    def _positions_for(self, images: Tensor) -> Iterator[None]:
        """Let the tower have position embeddings for images of this size: its own, resized
        bicubically.
        """
        visual = self.visual
        size = tuple(images.shape[-2:])
        if not self.tower.native:
            self._grid = tuple(visual.trunk.patch_embed.grid_size)
            if size != (self.size, self.size):
                raise InputError(
                    f"{type(visual).__name__} takes images of {self.size} px alone; set "
                    "dense.window to 0"
                )
            yield
            return
        own = visual.positional_embedding
        self._grid = tuple(
            side // patch for side, patch in zip(size, visual.patch_size, strict=True)
        )
        if self._grid != tuple(visual.grid_size) and self._grid not in self._positions:
            square = own[1:].detach().float().T.unflatten(1, tuple(visual.grid_size))[None]
            resized = functional.interpolate(square, self._grid, mode="bicubic")[0].flatten(1).T
            positions = torch.cat([own[:1].detach(), resized.to(own.dtype)])
            self._positions[self._grid] = nn.Parameter(positions, requires_grad=False)
        visual.positional_embedding = self._positions.get(self._grid, own)
        try:
            yield
        finally:
            visual.positional_embedding = own
