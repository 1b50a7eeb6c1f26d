"""States from which a killed training resumes: trained parameters, both moments of AdamW, the loss
scaler, the step.

The order of the data, the views of it and the schedule are functions of the step (`schedule`), and
nothing else draws random numbers, so a state needs no more than this, a count of skipped steps, and
what the draws depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from react_pipeline.clip import save_tensors
from react_pipeline.store import rename_synced

logger = logging.getLogger(__name__)

PROBED = ".probed"
"""In the name of a state after whose step held-out pairs were looked at; sorts before the plain
name of that step.
"""

KEPT_STATES = 2
"""How many of the newest states are kept: one more than needed, since the newest may be damaged."""


@dataclass
class TrainingState:
    """What changes while a model trains.

    Attributes:
        optimizer: Holds their moments.
        scaler: Of the loss, in fp16; disabled in any other precision.
        skipped_steps: How many steps the scaler has skipped, since their gradient was not finite.
        skipped_in_a_row: How many of these were the last steps.
        draws: What a step's draw depends on besides its number; a state with other draws is not
            used.
    """

    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    draws: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a state after `step` steps; further steps do not change it."""

    step: int
    tensors: Mapping[str, Tensor]
    about: Mapping[str, str]

    @classmethod
    def of(cls, state: TrainingState, step: int, seconds: float) -> Self:
        """Copy the state after `step` steps and `seconds` into the CPU's memory."""
        tensors = {}
        for name, parameter in state.trained.items():
            tensors[f"parameter/{name}"] = _copy(parameter)
            for moment, value in state.optimizer.state[parameter].items():
                tensors[f"{moment}/{name}"] = _copy(value)
        about = {
            "step": str(step),
            "seconds": str(seconds),
            "scaler": json.dumps(state.scaler.state_dict()),
            "skipped": json.dumps([state.skipped_steps, state.skipped_in_a_row]),
            "draws": state.draws,
        }
        return cls(step, tensors, about)

    def save(self, directory: Path, *, probed: bool = False) -> None:
        """Write it; of all states the newest `KEPT_STATES` stay, and the newest one that was
        `probed`.

        Args:
            probed: Whether held-out pairs were looked at after this step: what a later collapse
                leaves to go back to.
        """
        temporary = directory / "writing.tmp"
        digest = _digest(self.tensors, self.about)
        save_tensors(dict(self.tensors), temporary, {**self.about, "sha256": digest})
        rename_synced(
            temporary, directory / f"step-{self.step:09d}{PROBED if probed else ''}.safetensors"
        )
        states = states_in(directory)
        newest_probed = [path for path in states if PROBED in path.name][-1:]
        for path in states[:-KEPT_STATES]:
            if path not in newest_probed:
                path.unlink()


def states_in(directory: Path) -> list[Path]:
    """The files of states, the newest last."""
    return sorted(directory.glob("step-*.safetensors"))


def load_newest_state(directory: Path, state: TrainingState, logged: int) -> tuple[int, float]:
    """Put the newest state that fits into `state`; return its step and seconds, 0 where none is.

    One that cannot be read, whose batches were drawn otherwise, or of a step after the first
    `logged` ones is warned of and left: losses that are not on record are computed again.
    """
    for path in reversed(states_in(directory)):
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
                step, seconds, scaler = (
                    int(about["step"]),
                    float(about["seconds"]),
                    json.loads(about["scaler"]),
                )
                skipped, in_a_row = map(int, json.loads(about["skipped"]))
                if about["draws"] != state.draws:
                    raise ValueError(
                        f"its batches were {about['draws']}, and are {state.draws} now"
                    )
                if step > logged:
                    raise ValueError(f"the log holds {logged} steps alone")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            if about.pop("sha256") != _digest(tensors, about):
                raise ValueError("its bytes are not those that were written")
            _restore(tensors, state.trained, state.optimizer)
            state.skipped_steps, state.skipped_in_a_row = skipped, in_a_row
            if scaler:
                state.scaler.load_state_dict(scaler)
        except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            logger.warning(
                "%s cannot be resumed from (%s); trying an older state", path.name, error
            )
            continue
        return step, seconds
    return 0, 0.0


def remove_states_after(step: int, directory: Path) -> None:
    """Remove states newer than the one resumed: states are ordered by step, so these would be taken
    for newer.
    """
    for path in states_in(directory):
        if path.name > f"step-{step:09d}.safetensors":
            path.unlink()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(
            name.encode() + tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment in the memory layout of its parameter, which fused AdamW takes for granted
    (channels-last, say).
    """
    if value.shape != parameter.shape:  # the count of steps
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _restore(
    tensors: dict[str, Tensor], trained: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> None:
    wanted = {f"parameter/{name}" for name in trained}
    if wanted != {key for key in tensors if key.startswith("parameter/")}:
        raise KeyError("it holds other parameters")
    # Looked at before anything is copied: a state that does not fit must leave everything as it
    # was.
    for name, parameter in trained.items():
        if tensors[f"parameter/{name}"].shape != parameter.shape:
            raise ValueError(f"{name} has another shape in it")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"parameter/{name}"])
            # Fused AdamW wants the count of its steps with the moments.
            optimizer.state[parameter] = {
                key.split("/", 1)[0]: _laid_out_as(parameter, value)
                for key, value in tensors.items()
                if key.split("/", 1)[1] == name and not key.startswith("parameter/")
            }
