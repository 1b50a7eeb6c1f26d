"""What a step asks of the machine and how fast it is: matrix products of a step, their rate, single
steps timed.

No model is built and nothing is reported here; `benchmarks.customize` does both.

Shapes: B pairs of a batch, T tokens of an image, R = B T rows, W width.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks.published import CLASS_TOKEN, NO_CHECKPOINTING, PREFIX, TEXTS, Take
from react_pipeline.clip import gated_layers


def timed(takes: Mapping[str, Take], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of single steps, all in turns, after one step each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    for step in range(repeats + 1):
        for name, take in takes.items():
            began = time.perf_counter()
            take(step)
            if device == "cuda":
                torch.cuda.synchronize()
            if step:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def operations(model: Any, batch: int, parts: frozenset[str]) -> tuple[float, float]:
    """Floating-point operations of a step in matrix products: of the image tower, of the text
    tower.

    Forward, a block on R = B T rows takes 24 R W^2 in its linear layers (attention 4 W x W, MLP 8 W
    x W, two operations a multiplication) and 4 R T W in attention's two products. Backward, the
    gradient of a linear layer's input takes as much as its forward, that of its weight again as
    much, and attention twice its forward. So a gated block takes 3 times its linear layers, a
    frozen block behind it twice, both 3 times their attention; a frozen block before the first
    gated one takes its forward alone. Forced checkpointing adds the forward of every gated block
    but the first. Left out: the loss, and what is no matrix product (norms, activations, the
    optimizer).
    """
    visual, layers, gated = (
        model.visual,
        len(model.visual.transformer.resblocks),
        len(gated_layers(model)),
    )
    tokens, width = visual.positional_embedding.shape
    rows = batch * tokens
    linear, attention = 24 * rows * width**2, 4 * rows * tokens * width
    # The projection at the end is frozen: its forward, and the gradient of its input.
    image = gated * (5 * linear + 6 * attention) + 4 * batch * width * visual.output_dim
    if PREFIX not in parts:
        patches = 2 * (rows - batch) * visual.conv1.weight.numel()
        image += patches + (layers - gated) * (linear + attention)
    if NO_CHECKPOINTING not in parts:
        image += (gated - 1) * (linear + attention)
    if CLASS_TOKEN in parts:
        # Of the last block: all of it for one token (24 B W^2), and for each head a look at all
        # tokens (4 R W).
        heads = visual.transformer.resblocks[-1].attn.num_heads
        image -= 2 * (linear - 24 * batch * width**2) + 3 * (attention - 4 * heads * rows * width)
    if TEXTS in parts:
        return image, 0.0
    length, width = model.positional_embedding.shape
    text = len(model.transformer.resblocks) * batch * length * (24 * width**2 + 4 * length * width)
    return image, text + 2 * batch * width * visual.output_dim


def matmul_rate(rows: int, width: int, dtype: torch.dtype, given: argparse.Namespace) -> float:
    """Operations a second of a block's four linear layers on (rows, W), each at its best."""
    device, seconds = given.device, 0.0
    for inputs, outputs in (
        (width, 3 * width),
        (width, width),
        (width, 4 * width),
        (4 * width, width),
    ):
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        weight, bias = (
            torch.randn(outputs, inputs, device=device, dtype=dtype),
            torch.zeros(outputs).to(x),
        )

        def take(_step: int, x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> float:
            functional.linear(x, weight, bias)
            return 0.0

        seconds += min(timed({"": take}, 3 + 3 * given.repeats, device)[""])
    return 24 * rows * width**2 / seconds
