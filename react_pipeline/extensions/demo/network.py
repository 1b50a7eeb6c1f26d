"""The image tower of the demo, `react_demo_hybrid`: a vision transformer on a frozen
EfficientNet-Lite0, for timm.

A 128-pixel image becomes a 4 x 4 map of 1,280 channels, then 2 x 2 tokens of width 384 (an average
over 2 x 2 positions and a linear map), then passes two transformer blocks and is averaged. All of
it is timm's own code, so open_clip, gated blocks and the frozen prefix treat it like any timm ViT.
Does not belong here: weights (`base`).
"""

from functools import partial
from typing import Any

import timm
import torch
from timm.layers.hybrid_embed import HybridEmbed
from timm.models import register_model
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .packages import IMAGE_TOWER

IMAGE_SIZE = 128
WIDTH = 384
POOLED = 2
"""Positions of the feature map, per side, that become one token: 4 tokens instead of 16.

Measured (one seed): gated-image top-1 11.6 with 4 tokens, 9.3 with 16, at about a quarter of the
arithmetic.
"""


class FeatureMap(nn.Module):
    """EfficientNet-Lite0 up to its last feature map, with batch normalisation folded into the
    convolutions.

    Folding and channels-last memory change no value beyond rounding (checked: 2e-5) and are faster
    on a CPU.
    """

    def __init__(self, network: nn.Module | None = None) -> None:
        """Fold `network`, a timm `tf_efficientnet_lite0` in eval mode; None: one with random
        weights.
        """
        super().__init__()
        if network is None:
            network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.network: Any = network.eval()
        self.network.classifier = nn.Identity()
        self.num_features = self.network.num_features
        _fold(self.network, ("conv_stem", "bn1"), ("conv_head", "bn2"))
        stages: Any = self.network.blocks
        for stage in stages:
            for block in stage:
                if hasattr(block, "conv_pwl"):
                    _fold(block, ("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
                else:
                    _fold(block, ("conv_dw", "bn1"), ("conv_pw", "bn2"))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, 128, 128) to features (B, 1280, 4, 4)."""
        return self.network.forward_features(images.contiguous(memory_format=torch.channels_last))


class IdentityBlock(Block):
    """A transformer block that costs a training nothing while it is frozen and adds nothing.

    In the base its last matrices are zero, so values and gradients pass it unchanged, bit for bit.
    """

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Map tokens (B, T, W) to the same shape."""
        # Only while a training needs gradients: what is exported or fused is the whole block. The
        # values of fake tensors, whose memory `plan` counts, are not known.
        if x.requires_grad and not isinstance(x, FakeTensor) and self._adds_nothing():
            return x
        return super().forward(x, *args, **options)

    def _adds_nothing(self) -> bool:
        last: Any = (*self.attn.proj.parameters(), *self.mlp.fc2.parameters())
        return not any(weight.requires_grad or weight.any() for weight in last)


def _fold(module: Any, *pairs: tuple[str, str]) -> None:
    for convolution, norm in pairs:
        layer = getattr(module, norm)
        setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), layer))
        # timm's norm layers carry the activation, which stays.
        setattr(module, norm, layer.act)


@register_model
def react_demo_hybrid(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Build the tower with random weights; timm calls this by its name."""
    if pretrained:
        raise ValueError(
            f"{IMAGE_TOWER} has no weights to download; react_pipeline.extensions.demo.base "
            "builds them"
        )
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(name, None)
    return VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=POOLED,
        embed_layer=partial(_embed, FeatureMap()),
        embed_dim=WIDTH,
        depth=2,
        num_heads=6,
        class_token=False,
        pos_embed="none",
        final_norm=False,
        fc_norm=False,
        block_fn=IdentityBlock,
        **options,
    )


def _embed(backbone: FeatureMap, **options: Any) -> HybridEmbed:
    accepted = ("img_size", "patch_size", "in_chans", "embed_dim", "bias")
    return HybridEmbed(backbone, **{name: options[name] for name in accepted if name in options})
