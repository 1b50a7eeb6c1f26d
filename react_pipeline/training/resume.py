"""States from which a killed training resumes: trained parameters, optimizer, loss scaler, step.

The order of the data, the views of it and the schedule are functions of the step (`schedule`), and
nothing else draws random numbers, so a state needs no more than this, a count of skipped steps, and
what the draws depend on. A state is a kept folder: a file of torch, with the log of the steps
before, and its digest.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from react_pipeline.store import Scratch, StoreWriteError, TrainingError, sha256_of
from react_pipeline.training.world import World

logger = logging.getLogger(__name__)

KEPT_STATES = 2
"""How many of the newest states are kept: one more than needed, since the newest may be damaged."""

STATE, DIGEST = "state.pt", "sha256"


@dataclass
class TrainingState:
    """What changes while a model trains.

    Attributes:
        scaler: Of the loss, in fp16; disabled in any other precision.
        skipped_steps: How many steps the scaler has skipped, since their gradient was not finite.
        skipped_in_a_row: How many of these were the last steps.
        draws: What a step's draw depends on, apart from its number. A state with other draws is
            not used.
    """

    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    draws: str = ""

    def content(self, step: int, seconds: float, log: str) -> dict[str, Any]:
        """Return all that is saved after `step` steps, which took `seconds`."""
        return {
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "log": log,
            "step": step,
            "seconds": seconds,
            "skipped": [self.skipped_steps, self.skipped_in_a_row],
            "draws": self.draws,
        }

    def problem(self, content: dict[str, Any] | None) -> str:
        """Say why what was saved cannot be loaded; "" if it can."""
        if content is None:
            return "its bytes are not those that were written"
        if content["draws"] != self.draws:
            return f"its batches were {content['draws']}, and are {self.draws} now"
        ours = {name: parameter.shape for name, parameter in self.trained.items()}
        theirs = {name: tensor.shape for name, tensor in content["trained"].items()}
        return "" if ours == theirs else "it holds other parameters"

    @torch.no_grad()
    def load(self, content: dict[str, Any]) -> None:
        """Continue from what was saved."""
        for name, parameter in self.trained.items():
            parameter.copy_(content["trained"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.skipped_steps, self.skipped_in_a_row = content["skipped"]


class Resumed(NamedTuple):
    """Where a training begins.

    Attributes:
        step: The first one to take.
        seconds: What the steps before it took.
        log: Their lines.
    """

    step: int = 0
    seconds: float = 0.0
    log: str = ""


def save_state(content: dict[str, Any], scratch: Scratch) -> None:
    """Keep `TrainingState.content`, and remove all but the newest `KEPT_STATES`.

    Raises:
        StoreWriteError: If the disk refuses it, with the bytes needed.
    """

    def write(folder: Path) -> None:
        folder.mkdir()
        torch.save(content, folder / STATE)
        (folder / DIGEST).write_text(sha256_of(folder / STATE))

    name = f"step-{content['step']:09d}"
    try:
        scratch.keep(name, write)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        needed = 3 * sum(tensor.nbytes for tensor in content["trained"].values())
        raise StoreWriteError(
            f"{scratch.folder / name}: {error}; {needed:,} bytes are needed. Free space and run "
            "again"
        ) from error
    for folder in states_in(scratch)[:-KEPT_STATES]:
        shutil.rmtree(folder)


def states_in(scratch: Scratch) -> list[Path]:
    """Return the folders of all states, the newest last."""
    return sorted(scratch.folder.glob("step-*"))


def read_state(folder: Path, device: str = "cpu") -> dict[str, Any] | None:
    """Return what was saved, or None if a byte of it has changed since."""
    try:
        if (folder / DIGEST).read_bytes() != sha256_of(folder / STATE).encode():
            return None
    except OSError:
        return None
    content: dict[str, Any] = torch.load(folder / STATE, map_location=device, weights_only=True)
    return content


def resume(state: TrainingState, scratch: Scratch, world: World) -> Resumed:
    """Load the newest state that fits into `state`, if there is one.

    States that are damaged, or whose batches were drawn otherwise, are skipped with a warning, and
    removed.

    Raises:
        TrainingError: If the processes found different states.
    """
    resumed = Resumed()
    for folder in reversed(states_in(scratch)):
        content = read_state(folder)
        problem = state.problem(content)
        if content is not None and not problem:
            state.load(content)
            resumed = Resumed(content["step"], content["seconds"], content["log"])
            break
        logger.warning(
            "%s cannot be resumed from (%s); trying an older state", folder.name, problem
        )
    # Also waits, so that no process removes a state that another one still reads.
    if world.broadcast(resumed.step) != resumed.step:
        raise TrainingError(
            "the processes resume from different states; is the store shared? Run again"
        )
    if world.is_writer:
        for folder in states_in(scratch):
            if folder.name > f"step-{resumed.step:09d}":
                shutil.rmtree(folder)  # it would be taken for a newer one of this run
    return resumed
