"""Bytes that a ViT-B/32 moves on a GPU in bf16, operation by operation, counted on fake tensors.

Nothing is computed: `python -m benchmarks.copies` takes seconds on any machine. Autograd knows no
fake GPU, so tensors are those of a CPU that say `is_cuda`, and norms are cast as CUDA's autocast
does. What is counted is an eager run.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import open_clip
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from react_pipeline.clip import (
    ImageTower,
    add_gated_blocks,
    encode_text,
    half_blocks,
    text_blocks,
)

BATCH, LENGTH, GATED = 256, 20, 6
"""Images or captions of a batch, token ids of a caption, and blocks that train."""
FREE = ("device", "empty", "empty_like", "new_empty", "detach")

_layer_norm = functional.layer_norm


class Moved(TorchDispatchMode):
    """Sums the bytes that operations read and write, by name; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        schema, name = func._schema, func.overloadpacket.__name__
        writes = any(one.alias_info and one.alias_info.is_write for one in schema.arguments)
        is_view = not writes and any(one.alias_info for one in schema.returns)
        if not is_view and name not in FREE:
            leaves = tree_leaves((args, kwargs, result))
            tensors = {id(one): one for one in leaves if isinstance(one, Tensor)}
            written = [args[0]] if writes else []
            self.bytes[name] += sum(one.nbytes for one in [*tensors.values(), *written])
            self.kernels += 1
        return result


def _as_cuda(x: Tensor, *args: Any) -> Tensor:
    return _layer_norm(x.float() if torch.is_autocast_enabled("cpu") else x, *args)


@contextlib.contextmanager
def on_paper(ours: bool) -> Iterator[Moved]:
    """Count what is run within; `ours` without copies between precisions."""
    moved = Moved()
    with (
        mock.patch.object(FakeTensor, "is_cuda", ours),
        mock.patch.object(functional, "layer_norm", _as_cuda),
        torch.autocast("cpu", torch.bfloat16),
        moved,
    ):
        yield moved


def build(last_k_layers: int = 0) -> Any:
    """Return a ViT-B/32 of fake tensors; only gated blocks train."""
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    # Fake tensors are where they are wanted, and cannot be moved.
    with mock.patch.object(nn.Module, "to", lambda module, *_: module):
        model = open_clip.CLIP(**config).eval()
        if last_k_layers:
            add_gated_blocks(model, last_k_layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("gated_attn_block" in name)
    return model


def cases() -> dict[str, Callable[[], object]]:
    """Return what is counted, by name; called within `FakeTensorMode`."""
    model = build()
    tower = ImageTower(model)
    tower.use_half(torch.bfloat16)
    blocks = half_blocks(text_blocks(model), torch.bfloat16)
    trained = ImageTower(build(GATED))
    trained.use_half(torch.bfloat16, frozen_only=True)
    images, texts = torch.empty(BATCH, 3, 224, 224), torch.zeros(BATCH, LENGTH, dtype=torch.long)
    tokens = torch.empty(BATCH, 50, 768, dtype=torch.bfloat16)

    def embed(run: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            run()

    return {
        "an embedded image": lambda: embed(lambda: tower(images)),
        "an embedded caption": lambda: embed(lambda: encode_text(model, texts, blocks)),
        "an image of a step": lambda: trained.features(tokens).sum().backward(),
    }


def count(name: str, *, ours: bool) -> Moved:
    """Count one case."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with mock.patch.object(FakeTensor, "is_cuda", ours):
            run = cases()[name]
        with on_paper(ours) as moved:
            run()
    return moved


def main() -> None:
    """Print a table."""
    print(
        "| MB moved by | autocast alone | of it copies | ours | of it copies |\n|---|---|---|---|---|"
    )
    for name in ("an embedded image", "an embedded caption", "an image of a step"):
        found = [count(name, ours=ours) for ours in (False, True)]
        cells = [
            f"{size / BATCH / 1e6:.1f}"
            for one in found
            for size in (one.bytes.total(), one.bytes["_to_copy"])
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
