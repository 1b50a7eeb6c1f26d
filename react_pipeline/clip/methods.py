"""Methods: which part of a model each one trains.

A new method is a row of `settings.training.METHOD_DEFAULTS` and a function here. `linear-head` trains no part of the
model (`linear_head`). Does not belong here: how a method is trained (`training`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from react_pipeline.clip.gated import add_gated_blocks, gated_layers, vision_blocks
from react_pipeline.store import InputError


def _gated_image(model: Any) -> list[nn.Module]:
    blocks = gated_layers(model)
    if not blocks:
        raise InputError("gated-image needs gated blocks: call add_gated_blocks(model, last_k_layers) first")
    return list(blocks.values())


def _locked_text(model: Any) -> list[nn.Module]:
    return [model.visual]


def _locked_image(model: Any) -> list[nn.Module]:
    if hasattr(model, "text"):
        return [model.text]
    # open_clip's CLIP keeps its text tower at the top level, beside `visual`.
    return [model.transformer, model.token_embedding, model.ln_final]


def _full(model: Any) -> list[nn.Module]:
    return [model]


TRAINED_PARTS: Mapping[str, Callable[[Any], list[nn.Module]]] = {
    "gated-image": _gated_image,
    "locked-text": _locked_text,
    "locked-image": _locked_image,
    "full": _full,
}
"""The modules that train, by method. Everything else is frozen, but for the logit scale (and bias)."""

_TOP_LEVEL_TEXT = ("positional_embedding", "text_projection")
"""Beginnings of names: a text projection may be a layer with a bias."""


def attach(model: nn.Module, method: str, last_k_layers: int) -> None:
    """Add the new modules of a method, in place: gated blocks in front of the last layers, as many as there are.

    A base that has gated blocks, as a released REACT checkpoint, gets no more of them: its own go on training.
    """
    if method == "gated-image" and not gated_layers(model):
        add_gated_blocks(model, min(last_k_layers, len(vision_blocks(model))))


def set_trainable(model: nn.Module, method: str) -> int:
    """Freeze everything but what `method` trains; return how many parameters train.

    The logit scale always trains, as in REACT, and so does a logit bias where there is one. Statistics of batch
    normalisation stay frozen: models are trained in eval mode.

    Raises:
        InputError: If the method is unknown, or `gated-image` is wanted of a model without gated blocks.
    """
    if method not in TRAINED_PARTS:
        raise InputError(f"unknown training method {method!r}: {', '.join(TRAINED_PARTS)}")
    model.requires_grad_(False)
    for part in TRAINED_PARTS[method](model):
        part.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name in ("logit_scale", "logit_bias") or (method == "locked-image" and name.startswith(_TOP_LEVEL_TEXT)):
            parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def text_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of the text tower."""
    inside = {id(parameter) for part in _locked_image(model) for parameter in part.parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) in inside or name.startswith(_TOP_LEVEL_TEXT)
    ]


def trains_text(model: nn.Module) -> bool:
    """Whether anything of the text tower trains, so that its vectors must be computed at every step."""
    return any(model.get_parameter(name).requires_grad for name in text_parameters(model))


def trains_images(model: Any) -> bool:
    """Whether anything of the image tower trains."""
    return any(parameter.requires_grad for parameter in model.visual.parameters())
