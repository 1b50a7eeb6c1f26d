"""What a card should do, by arithmetic: the operations and bytes of the kernels of a training step
and of the embedding, counted on fake tensors, against the peaks of the card.

Run `.venv/bin/python -m benchmarks.roofline` from the repository's root; `--page
docs/performance.md` writes the table there. Nothing is computed, so no card is needed. A kernel
takes the longer of its operations and its bytes at the rates below, and 2 microseconds at least.
Assumed, not measured: the share of its peaks that a card reaches; 7 microseconds for the launch of
a kernel from Python; that a compiled step moves 35% of the bytes of kernels other than products.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as functional
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.published import random_model
from react_pipeline.clip import ImageTower, encode_text

BEGIN, END = "<!-- roofline:begin -->", "<!-- roofline:end -->"
BATCH = 256
SHORTEST_SECONDS, LAUNCH_SECONDS, FUSED_SHARE = 2e-6, 7e-6, 0.35


@dataclass(frozen=True)
class Card:
    """Peaks, and the share that is reached of each: products in bf16 (dense), products in fp32,
    bytes.
    """

    bf16: float
    bf16_reached: float
    fp32: float
    bytes_per_second: float

    def seconds(self, kernel: Kernel) -> float:
        """How long a kernel takes."""
        half = kernel.dtype in (torch.bfloat16, torch.float16)
        rate = self.bf16 * self.bf16_reached if half else self.fp32
        moving = kernel.bytes / self.bytes_per_second
        return max(kernel.operations / rate, moving, SHORTEST_SECONDS)


CARDS = {
    "RTX 4090": Card(165e12, 0.80, 82e12 * 0.6, 1.008e12 * 0.85),
    "A100": Card(312e12, 0.75, 19.5e12 * 0.9, 2.039e12 * 0.85),
    "H100": Card(989e12, 0.65, 67e12 * 0.75, 3.35e12 * 0.80),
}
PEAKS = {"H200": 989e12, "B200": 2250e12, "L40S": 362e12, "L4": 121e12, "RTX 5090": 209e12}
PEAKS |= {name: card.bf16 for name, card in CARDS.items()}
"""Operations a second in bf16, dense, by a part of the card's name."""


@dataclass(frozen=True)
class Kernel:
    """One kernel: bytes that it reads and writes, operations of its products, its type."""

    bytes: int
    operations: int
    dtype: torch.dtype


class Kernels(TorchDispatchMode):
    """Notes the kernels that a step launches."""

    def __init__(self) -> None:
        """None yet."""
        super().__init__()
        self.all: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs, outputs = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
            for tree in ((args, kwargs), result)
        )
        writes = any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments)
        is_view = not writes and any(returned.alias_info for returned in func._schema.returns)
        name = func.overloadpacket.__name__
        if is_view or not (outputs or writes) or "empty" in name or name == "detach":
            return result
        new = [tensor for tensor in outputs if not any(tensor is other for other in inputs)]
        count = flop_registry.get(func.overloadpacket)
        operations = count(*args, **kwargs, out_val=result) if count else 0
        self.all.append(
            Kernel(sum(t.nbytes for t in inputs + new), operations, (inputs + new)[0].dtype)
        )
        return result


def attention_of_cuda(query: Any, key: Any, value: Any, *_: Any, **options: Any) -> Any:
    """The kernel that CUDA takes, in the type of autocast."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (part.to(torch.bfloat16) for part in (query, key, value))
    causal = bool(options.get("is_causal"))
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal)[0]


@contextlib.contextmanager
def on_paper() -> Iterator[None]:
    """Fake tensors, with the kernels of CUDA where those of a processor are others."""
    layer_norm = functional.layer_norm

    def in_fp32(x: Any, *args: Any, **options: Any) -> Any:
        return layer_norm(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **options)

    with (
        mock.patch.object(torch.nn.Module, "to", lambda module, *_, **__: module),
        mock.patch.object(torch.Tensor, "item", lambda _: 1.0),
        mock.patch.object(torch.Tensor, "__bool__", lambda _: False),
        mock.patch.object(functional, "layer_norm", in_fp32),
        mock.patch.object(functional, "scaled_dot_product_attention", attention_of_cuda),
        mock.patch("react_pipeline.training.step.require_steady_scale"),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def count(make: Callable[[], Callable[[], Any]]) -> tuple[list[Kernel], int]:
    """The kernels of a step, and the bytes that it keeps for its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with on_paper():
        take = make()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), Kernels() as kernels:
            take()
    return kernels.all, sum(kept.values())


def embedding_step(device: str, batch: int) -> Callable[[], Any]:
    """Both towers in bf16 on a batch in the card's memory."""
    from benchmarks.gpu import LENGTH

    model = random_model(device).eval()
    images = torch.rand(batch, 3, 224, 224, device=device)
    ids = torch.randint(1, 49_000, (batch, LENGTH), device=device)
    visual = ImageTower(model)

    @torch.no_grad()
    def take() -> None:
        with torch.autocast(device, torch.bfloat16):
            visual(images)
            encode_text(model, ids)

    return take


def rows() -> list[list[str]]:
    """Each work on each card; the last cells are left for what is measured."""
    from benchmarks.gpu import training_step

    table = []
    for title, make in (("training step", training_step), ("embedding", embedding_step)):
        kernels, kept = count(lambda make=make: make("cpu", BATCH))  # type: ignore[misc]
        operations = sum(kernel.operations for kernel in kernels)
        for name, card in CARDS.items():
            products = sum(card.seconds(kernel) for kernel in kernels if kernel.operations)
            others = sum(card.seconds(kernel) for kernel in kernels if not kernel.operations)
            eager = max(products + others, LAUNCH_SECONDS * len(kernels))
            compiled = products + FUSED_SHARE * others
            speeds = [f"{BATCH / eager:,.0f}", f"{BATCH / compiled:,.0f}"]
            share = f"{operations / compiled / card.bf16:.0%}"
            about = [f"{operations / BATCH / 1e9:.1f}", f"{kept / 2**30:.1f}" if kept else "–"]
            table.append([title, name, *about, *speeds, share, "", "", "", ""])
    return table


def main() -> None:
    """Count and print."""
    from benchmarks.methods import write_section
    from react_pipeline.pages import markdown_table

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    columns = ["work", "card", "GFLOP a pair", "GiB kept for backward"]
    for kind in ("estimated", "measured"):
        columns += [f"{kind}: pairs/s", f"{kind}: compiled", f"{kind}: MFU compiled"]
    section = markdown_table([*columns, "measured: peak GiB"], rows())
    print(section)
    if given.page:
        write_section(given.page, section.strip(), BEGIN, END)


if __name__ == "__main__":
    main()
