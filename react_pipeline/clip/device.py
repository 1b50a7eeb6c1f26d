"""The device that models run on, and why a GPU of this machine cannot be used."""

import logging
import os
import re
import shutil
from functools import cache
from pathlib import Path

import torch

from react_pipeline.store import InputError

logger = logging.getLogger(__name__)

DRIVER = Path("/proc/driver/nvidia/version")
CUDA_13_DRIVER = 580
"""The oldest driver for CUDA 13; docs/gpu.md has the rest."""


def choose_device(device: str) -> str:
    """Turn `auto`, `cpu` or `cuda` into the device to use; `auto` takes a GPU that torch can use,
    and warns once of one that it cannot.

    Raises:
        InputError: If `cuda` is configured and there is no such GPU.
    """
    if device == "cpu":
        return "cpu"
    problem = gpu_problem()
    usable = torch.cuda.is_available() and not problem
    if device == "cuda" and not usable:
        raise InputError(
            f"device: cuda is configured, and {problem or 'no CUDA device is available'}; or use "
            "`device: auto` or `cpu`"
        )
    if problem:
        log_once(logging.WARNING, problem)
    if not usable:
        return "cpu"
    log_once(logging.INFO, f"device: cuda, {torch.cuda.get_device_name()}")
    return "cuda"


def gpu_problem() -> str:
    """Say why torch cannot use the NVIDIA GPU of this machine, and what to do after a semicolon; ""
    if it can, or if there is none.
    """
    there = DRIVER.exists() or Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if _has_code() if torch.cuda.is_available() else hidden or not there:
        return ""
    version = DRIVER.read_text() if DRIVER.exists() else ""
    driver = re.search(r"(\d+)\.\d+(\.\d+)?", version)
    built = torch.version.cuda
    is_old = driver is not None and int(driver[1]) < CUDA_13_DRIVER
    # A torch for CUDA 13 that cannot use it is too new for the driver, or for the card.
    index = "cu126" if is_old or (built or "").startswith("13.") else "cu130"
    return (
        f"torch {torch.__version__} cannot use this machine's NVIDIA GPU: the driver is "
        f"{driver[0] if driver else 'unknown'}, and torch was built for CUDA {built} "
        f"({' '.join(torch.cuda.get_arch_list())}); install one for it: pip install "
        "--force-reinstall torch torchvision --index-url "
        f"https://download.pytorch.org/whl/{index}; a container needs --gpus all"
    )


def _has_code() -> bool:
    """Whether torch was built for GPUs of this generation; a build without a list may be."""
    major, minor = torch.cuda.get_device_capability()
    archs = [int(re.sub(r"\D", "", arch)) for arch in torch.cuda.get_arch_list()]
    return not archs or min(archs) <= 10 * major + minor and major <= max(archs) // 10


def device_counts(device: str) -> dict[str, str]:
    """Return the device, and the name of a GPU, for a manifest."""
    gpu = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device)}
    return {"device": device, **gpu}


@cache
def log_once(level: int, message: str) -> None:
    """Log a message once a process."""
    logger.log(level, "%s", message)
