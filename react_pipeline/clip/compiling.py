"""Towers compiled by torch: where that pays, and what happens where it fails."""

import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

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
                _warn_once(" ".join(str(error).split("\n")[:2]))
        return run(*args)

    return call


@functools.cache
def _warn_once(problem: str) -> None:
    logger.warning(
        f"torch.compile fails here, so towers run without it: {problem}; it needs a C++ compiler, "
        "and a GPU of compute capability 7"
    )
