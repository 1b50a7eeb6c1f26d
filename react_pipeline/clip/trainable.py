"""Which parameters of a model train, and which tower they belong to.

Does not belong here: what a method trains (`training.methods`), the training itself (`training`).
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from react_pipeline.store import InputError

_LOGIT = ("logit_scale", "logit_bias")


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


def text_parameters(model: nn.Module) -> list[str]:
    """Return names of the parameters of the text tower."""
    return [name for name, _ in model.named_parameters() if in_text_tower(name)]


def trains_text(model: nn.Module) -> bool:
    """Return whether anything of the text tower trains, so that its vectors must be computed at
    every step.
    """
    return any(
        parameter.requires_grad
        for name, parameter in model.named_parameters()
        if in_text_tower(name)
    )


def trains_images(model: Any) -> bool:
    """Return whether anything of the image tower trains."""
    return any(parameter.requires_grad for parameter in model.visual.parameters())
