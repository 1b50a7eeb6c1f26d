"""The device that models run on, the precision in which it computes, and where compiling pays.

`precision: auto` is part of a fingerprint, its choice is not, so that artifacts made on a GPU stay
fresh on a laptop. The accuracy of every choice: unit vectors of transformers have a cosine above
0.999 with those of fp32 (for convolutions see docs/scale.md).
"""

import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from react_pipeline.store import InputError

logger = logging.getLogger(__name__)

DRIVER = Path("/sys/module/nvidia/version")

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

EVALUATION_PRECISION = "fp32"
"""The precision of all measurements on labelled images, on any device: what differs between two
results is the model. ELEVATER's toolkit measures so, and `auto` would be another precision on
another machine."""

MIN_SPEEDUP = 1.2
"""Over fp32, from which `auto` takes bf16 on a CPU. With instructions for it 2 to 10 were measured,
without 0.01. oneDNN may not use those that a processor has (`ONEDNN_MAX_CPU_ISA`).
"""

PROBE_ROWS, PROBE_WIDTH = 64, 512
PROBE_SECONDS = 0.05
"""The time for products of each precision. The fastest counts: on a busy processor most of them
wait for others.
"""

COMPILED_IMAGES = 10_000_000
"""Images or texts of a run from which a GPU compiles. Estimated for ViT-B/32 on an H100:
20 microseconds of each in a step are saved, 4 in embedding; compiling takes a minute (assumed).
"""

BF16_CAPABILITY, FP16_CAPABILITY = (8, 0), (7, 0)
"""Compute capabilities from which a GPU has tensor cores for each."""


def choose_device(device: str) -> str:
    """Turn `auto`, `cpu` or `cuda` into the device to use; `auto` takes a GPU that torch can use,
    and warns once of one that it cannot.

    Raises:
        InputError: If `cuda` is configured and there is no such GPU.
    """
    if device == "cpu":
        return "cpu"
    problem = gpu_problem()
    if torch.cuda.is_available() and not problem:
        log_once(logging.INFO, f"device: cuda, {torch.cuda.get_device_name()}")
        return "cuda"
    if device == "cuda":
        raise InputError(
            f"device: cuda is configured, and {problem or 'no CUDA device is available'}; or use "
            "`device: auto` or `cpu`"
        )
    if problem:
        log_once(logging.WARNING, problem)
    return "cpu"


def cards(device: str) -> list[str]:
    """Return the GPUs that are like the first that may be used here, by their names in
    `CUDA_VISIBLE_DEVICES`: another kind may be too old or too small; empty for the CPU.
    """
    if choose_device(device) == "cpu":
        return []
    kinds = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else map(str, range(len(kinds)))
    return [name for name, kind in zip(names, kinds, strict=False) if kind == kinds[0]]


def gpu_problem() -> str:
    """Say why torch cannot use the NVIDIA GPU of this machine, and what to do after a semicolon; ""
    if it can, or if there is none.
    """
    if torch.cuda.is_available():
        fits = _has_code()
    else:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        fits = hidden or not (DRIVER.exists() or shutil.which("nvidia-smi"))
    if fits:
        return ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"
    return (
        f"torch {torch.__version__}, built for {built}, cannot use this machine's NVIDIA GPU; "
        "start a container with --gpus all, or install the torch that fits driver and card from "
        "https://download.pytorch.org/whl (cu126 for old ones, else cu130)"
    )


def _has_code() -> bool:
    """Return whether torch was built for the GPU: code of its generation, or PTX."""
    own = f"sm_{torch.cuda.get_device_capability()[0]}"
    archs = torch.cuda.get_arch_list()
    has_code = any(arch[:-1] == own or "compute" in arch for arch in archs)
    return has_code or not archs or torch.version.hip is not None


def device_counts(device: str) -> dict[str, str]:
    """Return the device and the name of its GPU, if it is one, for a manifest."""
    return {"device": device, "gpu": "" if device == "cpu" else torch.cuda.get_device_name(device)}


@functools.cache
def log_once(level: int, message: str) -> None:
    """Log a message the first time that a process has it."""
    logger.log(level, "%s", message)


def choose_precision(precision: str, device: str) -> str:
    """Turn `auto` into `fp32`, `bf16` or `fp16`: on a GPU by its compute capability, on a CPU by a
    probe.
    """
    if precision != "auto":
        return precision
    if device == "cpu":
        return "bf16" if speedup() >= MIN_SPEEDUP else "fp32"
    capability = torch.cuda.get_device_capability(device)
    if capability >= BF16_CAPABILITY:
        return "bf16"
    return "fp16" if capability >= FP16_CAPABILITY else "fp32"


@contextmanager
def arithmetic() -> Iterator[None]:
    """Compute in a precision as its name says, within a block or a function.

    Products of fp32 are not rounded to TF32, which PyTorch does in convolutions, and sums of fp16
    and bf16 are in fp32. Outside, PyTorch's settings stay.
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
            setattr(*flag, False)
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            setattr(*flag, value)


@functools.cache
def speedup() -> float:
    """Measure how many times faster than in fp32 a matrix product is in bf16 on this CPU, once per
    process.
    """
    fp32, bf16 = map(_product_seconds, (torch.float32, torch.bfloat16))
    return fp32 / bf16


def _product_seconds(dtype: torch.dtype) -> float:
    matrix = torch.ones(PROBE_WIDTH, PROBE_WIDTH, dtype=dtype)
    operands = {"left": matrix[:PROBE_ROWS], "right": matrix}
    # In one thread: on a busy processor several would wait for each other in every product.
    timer = Timer("left @ right", globals=operands, num_threads=1)
    return min(timer.blocked_autorange(min_run_time=PROBE_SECONDS).times)


def compiles(setting: bool | Literal["auto"], device: str, images: int) -> bool:
    """Return whether a run over so many images compiles its towers on a device."""
    return device != "cpu" and images >= COMPILED_IMAGES if setting == "auto" else setting


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
