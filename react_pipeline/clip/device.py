"""The device that models run on, and why a GPU of this machine cannot be used."""

import logging
import os
import shutil
from functools import cache
from pathlib import Path

import torch

from react_pipeline.store import InputError

logger = logging.getLogger(__name__)

DRIVER = Path("/sys/module/nvidia/version")
CUDA_13_DRIVER = "580"
"""The oldest driver for CUDA 13; docs/scale.md has the rest."""


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


def gpu_problem() -> str:
    """Say why torch cannot use the NVIDIA GPU of this machine, and what to do after a semicolon; ""
    if it can, or if there is none.
    """
    there = DRIVER.exists() or shutil.which("nvidia-smi")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if _has_code() if torch.cuda.is_available() else hidden or not there:
        return ""
    driver = DRIVER.read_text().strip() if DRIVER.exists() else "unknown"
    # A torch for CUDA 13 that cannot use it is too new for the driver, or for the card.
    index = (
        "cu126" if driver < CUDA_13_DRIVER or str(torch.version.cuda).startswith("13.") else "cu130"
    )
    built = "CPUs alone"
    if torch.version.cuda:
        built = f"CUDA {torch.version.cuda} ({' '.join(torch.cuda.get_arch_list())})"
    return (
        f"torch {torch.__version__} cannot use this machine's NVIDIA GPU: the driver is "
        f"{driver}, and torch was built for {built}. In a container, start it with --gpus all; "
        "else install a torch for the driver and the card: pip install "
        "--force-reinstall torch torchvision --index-url "
        f"https://download.pytorch.org/whl/{index}, or update the driver"
    )


def _has_code() -> bool:
    """Return whether torch was built for the GPU: code of its generation, or PTX."""
    major, minor = torch.cuda.get_device_capability()
    archs = torch.cuda.get_arch_list()
    return (
        not archs
        or torch.version.hip is not None
        or any(
            arch[:-1] == f"sm_{major}" and arch[-1] <= str(minor) or "compute" in arch
            for arch in archs
        )
    )


def device_counts(device: str) -> dict[str, str]:
    """Return the device and the name of its GPU, if it is one, for a manifest."""
    return {"device": device, "gpu": "" if device == "cpu" else torch.cuda.get_device_name(device)}


@cache
def log_once(level: int, message: str) -> None:
    """Log a message once a process."""
    logger.log(level, "%s", message)
