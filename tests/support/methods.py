"""Small models of random weights, and methods by name, as tests of models use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.utils import to_2tuple

from react_pipeline.settings.methods import METHODS
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.training.methods import ModelMethod


def model_method(name: str) -> ModelMethod:
    """The method, which trains a part of the model."""
    method = METHODS[name]
    assert isinstance(method, ModelMethod)
    return method


def attach(model: Any, name: str, last_k_layers: int) -> None:
    """Add the method's new modules."""
    model_method(name).attach(model, TrainingConfig(last_k_layers=last_k_layers))


def set_trainable(model: Any, name: str) -> int:
    """Freeze what the method does not train; how many parameters train."""
    return model_method(name).set_trainable(model)


TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}


def small_clip(
    vision: Mapping[str, Any] = VIT,
    text: Mapping[str, Any] = TEXT,
    dimension: int = 16,
    *,
    custom: bool = False,
    **cfg: Any,
) -> Any:
    """A model of which no bias is 0 and no norm 1: none of them may be left out unseen."""
    torch.manual_seed(0)
    kind = CustomTextCLIP if custom else CLIP
    model = kind(embed_dim=dimension, vision_cfg=dict(vision), text_cfg=dict(text), **cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.startswith("logit"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def some_images(model: Any, count: int = 2) -> torch.Tensor:
    """Random images (B, 3, H, W), as large as the model takes."""
    size = to_2tuple(model.visual.image_size)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2))


def require_close(found: Mapping[str, Any], wanted: Mapping[str, Any], rtol: float) -> None:
    """Compare gradients, each by its own size."""
    for name, gradient in wanted.items():
        bound = 1e-5 * max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(
            found[name], gradient, atol=bound, rtol=rtol, msg=lambda text, name=name: name + text
        )


def weighted_gradients(features: torch.Tensor, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Gradients of weights by name, from a sum in which no two features count alike."""
    shares = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad((features * shares).sum(), list(weights.values()))
    return dict(zip(weights, found, strict=True))
