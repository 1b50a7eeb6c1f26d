"""Precision: which arithmetic a device runs fastest, and what `auto` selects.

`auto` is part of a fingerprint, its choice is not, so that artifacts made on a GPU stay fresh on a
laptop. The accuracy of every choice: unit vectors of transformers have a cosine above 0.999 with
those of fp32 (for convolutions see docs/scale.md).
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.benchmark import Timer

from react_pipeline.clip.device import log_once

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

EVALUATION_PRECISION = "fp32"
"""The precision of all measurements on labelled images, on any device: what differs between two
results is the model. ELEVATER's toolkit measures so, and `auto` would be another precision on
another machine."""

MIN_SPEEDUP = 1.2
"""Over fp32, from which `auto` takes bf16 on a CPU. With instructions for it 2 to 10 were measured,
without 0.01.
"""

PROBE_ROWS, PROBE_WIDTH = 64, 512
PROBE_SECONDS = 0.05
"""The time for products of each precision. The fastest counts: on a busy processor most of them
wait for others.
"""

BF16_CAPABILITY, FP16_CAPABILITY = (8, 0), (7, 0)
"""Compute capabilities from which a GPU has tensor cores for each."""


def choose_precision(precision: str, device: str, field: str = "precision") -> str:
    """Turn `auto` into `fp32`, `bf16` or `fp16`: on a GPU by its compute capability, on a CPU by a
    probe. A CPU computes `tf32` as `fp32`.

    Any other precision is used, with a warning if this device runs it slower than fp32; it names
    the setting `field`.
    """
    if precision == "tf32":
        return "fp32" if device == "cpu" else precision
    if precision != "auto":
        if precision != "fp32" and (ratio := speedup(precision, device)) < 1:
            log_once(
                logging.WARNING,
                f"{field}: {precision} runs {1 / ratio:.1f} times slower than fp32 on this device; "
                f"`auto` takes {choose_precision('auto', device)}",
            )
        return precision
    if device != "cpu":
        capability = torch.cuda.get_device_capability(device)
        if capability >= BF16_CAPABILITY:
            return "bf16"
        return "fp16" if capability >= FP16_CAPABILITY else "fp32"
    return "bf16" if speedup("bf16", device) >= MIN_SPEEDUP else "fp32"


@contextmanager
def arithmetic(precision: str = "fp32") -> Iterator[None]:
    """Compute in a precision as its name says, within a block or a function.

    Products of fp32 are not rounded to TF32, which PyTorch does in convolutions, unless the
    precision is `tf32`; sums of fp16 and bf16 are in fp32. Outside, PyTorch's settings stay.
    """
    matmul = torch.backends.cuda.matmul
    flags = [
        (torch.backends.cudnn, "allow_tf32"),
        (matmul, "allow_tf32"),
        (matmul, "allow_fp16_reduced_precision_reduction"),
        (matmul, "allow_bf16_reduced_precision_reduction"),
    ]
    before = [getattr(*flag) for flag in flags]
    try:
        for flag in flags:
            setattr(*flag, precision == "tf32" and flag[1] == "allow_tf32")
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            setattr(*flag, value)


@functools.cache
def speedup(precision: str, device: str) -> float:
    """Measure how many times faster than in fp32 a matrix product is in a precision, once per
    process.
    """
    return _product_seconds("fp32", device) / _product_seconds(precision, device)


def _product_seconds(precision: str, device: str) -> float:
    dtype = DTYPES[precision]
    operands = {
        "left": torch.ones(PROBE_ROWS, PROBE_WIDTH, dtype=dtype, device=device),
        "right": torch.ones(PROBE_WIDTH, PROBE_WIDTH, dtype=dtype, device=device),
    }
    # In one thread: on a busy processor several would wait for each other in every product.
    timer = Timer("left @ right", globals=operands, num_threads=1)
    return min(timer.blocked_autorange(min_run_time=PROBE_SECONDS).times)
