"""Towers compiled by torch: where that pays, and what happens where it fails."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor

from react_pipeline.clip.device import log_once

COMPILED_IMAGES = 10_000_000
"""Images or texts of a run from which `auto` compiles on a GPU. Estimated for ViT-B/32 on an H100:
20 microseconds of each in a step are saved, 4 in embedding; compiling takes a minute (assumed).
"""


def compiles(setting: bool | Literal["auto"], device: str, images: int) -> bool:
    """Return whether a run over many images compiles its towers on a device."""
    if setting == "auto":
        return device != "cpu" and images >= COMPILED_IMAGES
    return setting


def compiled(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that is compiled when it is first called; where that fails it runs as it
    is, after one warning.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._functorch import config

    with suppress(AttributeError):  # of an older torch
        # What fails for the backward pass then fails here, too.
        config.force_non_lazy_backward_lowering = True
    fast = torch.compile(run)
    fails = False

    def call(*args: Any) -> Tensor:
        nonlocal fails
        if not fails:
            try:
                return fast(*args)
            except TorchDynamoException as error:
                fails = True
                problem = " ".join(str(error).split("\n")[:2])
                warn = "torch.compile fails (a C++ compiler?), so towers run without it: "
                log_once(logging.WARNING, warn + problem)
        return run(*args)

    return call
