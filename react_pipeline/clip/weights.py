"""State dicts on disk: read without running any code in them, and loaded strictly.

Does not belong here: the architecture, or what else a checkpoint needs (`model`).
"""

import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from react_pipeline.store import InputError, open_regular

_SPARE_NUMBERS = 1 << 24
_SPARE_NAMES = 1_000
"""A model that does not fit its weights by a little is built, and named where it differs."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict: safetensors, or a plain torch file, bare or under `state_dict`, `module.`
    prefixes removed.

    Raises:
        InputError: If it is neither, or holds anything but tensors.
    """
    try:
        with open_regular(path):
            if path.suffix == ".safetensors":
                return load_file(path)
            # weights_only refuses anything but tensors: a checkpoint can run no code.
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{path}: cannot be read as safetensors or as a plain state dict ({reason}); "
            "TorchScript archives and pickled models are refused, save the state dict instead"
        ) from error
    weights = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise InputError(f"{path}: holds no state dict of tensors")
    return {key.removeprefix("module."): value for key, value in weights.items()}


@contextmanager
def at_most(weights: dict[str, Tensor]) -> Iterator[None]:
    """Stop building a model, in this thread, as soon as it is much larger than its weights.

    An architecture is a few numbers in a file, and 10^9 layers are one of them. A parameter is seen
    before its memory is written to.

    Raises:
        ValueError: If its parameters are more numerous, or larger, than the weights can fill.
    """
    limit = 2 * sum(tensor.numel() for tensor in weights.values()) + _SPARE_NUMBERS
    names = 4 * len(weights) + _SPARE_NAMES
    thread = threading.get_ident()
    count = Counter[str]()

    def measure(_module: nn.Module, _name: str, parameter: nn.Parameter) -> None:
        if parameter is None or threading.get_ident() != thread:
            return
        count["numbers"] += parameter.numel()
        count["names"] += 1
        if count["numbers"] > limit or count["names"] > names:
            raise ValueError(
                f"it has more parameters than the {len(weights):,} tensors of its weights"
            )

    hook = register_module_parameter_registration_hook(measure)
    try:
        yield
    finally:
        hook.remove()


class WithoutDraws(TorchFunctionMode):
    """Skips initial values of a model whose weights are loaded next: to draw them takes longer than
    to read a checkpoint.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the function, unless it is one of `torch.nn.init`, as far as torch shows them."""
        kwargs = kwargs or {}
        initializes = getattr(function, "__module__", "") == nn.init.__name__
        return kwargs["tensor"] if initializes else function(*args, **kwargs)


def load_strictly(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put weights into a model, in place.

    Raises:
        InputError: Naming `path` and the first keys that are missing, unexpected or of another
            shape.
    """
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 500, placeholder=" ...")
        raise InputError(f"{path}: does not fit the architecture: {reason}") from error
