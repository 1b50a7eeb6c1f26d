"""States from which a killed training goes on: trained parameters, both moments of AdamW, the step.

Belongs here: writing, choosing and reading a state. The order of the data and the schedule are functions of the step
(`schedule`), so a state needs no more than this. Safetensors, no pickle.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

logger = logging.getLogger(__name__)

KEPT_STATES = 2


def save_state(
    directory: Path, step: int, seconds: float, trained: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> None:
    """Write the state after `step` steps and `seconds`; remove all but the newest `KEPT_STATES`."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, parameter in trained.items():
        tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}/{name}"] = value.detach().cpu().contiguous()
    temporary = directory / "writing.tmp"
    save_file(tensors, temporary, metadata={"step": str(step), "seconds": str(seconds)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(directory / f"step-{step:09d}.safetensors")
    for old in sorted(directory.glob("step-*.safetensors"))[:-KEPT_STATES]:
        old.unlink()


def load_newest_state(
    directory: Path, trained: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> tuple[int, float]:
    """Put the newest readable state into parameters and optimizer; return its step and seconds, 0 where none is."""
    for path in sorted(directory.glob("step-*.safetensors"), reverse=True):
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                step, seconds = int(file.metadata()["step"]), float(file.metadata()["seconds"])
            _restore(tensors, trained, optimizer)
        except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as error:
            logger.warning("%s cannot be resumed from (%s); trying an older state", path.name, error)
            continue
        return step, seconds
    return 0, 0.0


def _restore(tensors: dict[str, torch.Tensor], trained: dict[str, nn.Parameter], optimizer: torch.optim.AdamW) -> None:
    wanted = {f"parameter/{name}" for name in trained}
    if wanted != {key for key in tensors if key.startswith("parameter/")}:
        raise KeyError("it holds other parameters")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            moments = {
                key.split("/", 1)[0]: value
                for key, value in tensors.items()
                if key.split("/", 1)[1] == name and not key.startswith("parameter/")
            }
            optimizer.state[parameter] = {
                moment: value if moment == "step" else value.to(parameter.device) for moment, value in moments.items()
            }
