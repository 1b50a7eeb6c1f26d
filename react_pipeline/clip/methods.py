"""Methods: which part of a model each one trains.

docs/methods.md says what a new one needs. `linear-head` trains no part of the model
(`linear_head`). Does not belong here: how a method is trained (`training`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from react_pipeline.clip.gated import add_gated_blocks, gated_layers, vision_blocks
from react_pipeline.store import InputError

_LOGIT = ("logit_scale", "logit_bias")


def _of_text(name: str) -> bool:
    # open_clip's CLIP keeps its text tower at the top level, next to `visual`; CustomTextCLIP keeps
    # it in `text`.
    return not name.startswith(("visual.", *_LOGIT))


TRAINED_PARTS: Mapping[str, Callable[[str], bool]] = {
    "gated-image": lambda name: ".gated_attn_block." in name,
    "locked-text": lambda name: name.startswith("visual."),
    "locked-image": _of_text,
    "full": lambda _: True,
}
"""By method, whether the parameter of a name trains. The logit scale (and bias) always does."""


def attach(model: nn.Module, method: str, last_k_layers: int) -> None:
    """Add the new modules of a method, in place: gated blocks in front of the last layers, as many
    as there are.

    A base that has gated blocks, as a released REACT checkpoint, gets no more of them: its own go
    on training.

    Raises:
        InputError: If the image tower has no place for them.
    """
    if method == "gated-image" and not gated_layers(model):
        add_gated_blocks(model, min(last_k_layers, len(vision_blocks(model))))


def set_trainable(model: nn.Module, method: str) -> int:
    """Freeze everything but what `method` trains; return how many parameters train.

    The logit scale always trains, as in REACT, and so does a logit bias where there is one.
    Statistics of batch normalisation stay frozen: models are trained in eval mode.

    Raises:
        InputError: If the method is unknown, or `gated-image` is wanted of a model without gated
            blocks.
    """
    if method not in TRAINED_PARTS:
        raise InputError(f"unknown training method {method!r}: {', '.join(TRAINED_PARTS)}")
    if method == "gated-image" and not gated_layers(model):
        raise InputError(
            "gated-image needs gated blocks: call add_gated_blocks(model, last_k_layers) first"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in _LOGIT or TRAINED_PARTS[method](name))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def text_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of the text tower."""
    return [name for name, _ in model.named_parameters() if _of_text(name)]


def trains_text(model: nn.Module) -> bool:
    """Whether anything of the text tower trains, so that its vectors must be computed at every
    step.
    """
    return any(
        parameter.requires_grad for name, parameter in model.named_parameters() if _of_text(name)
    )


def trains_images(model: Any) -> bool:
    """Whether anything of the image tower trains."""
    return any(parameter.requires_grad for parameter in model.visual.parameters())
