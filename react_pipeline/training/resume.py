"""States from which a killed training resumes: trained parameters, optimizer, loss scaler, step.

The order of the data, their augmentation and the schedule are functions of the step (`schedule`),
and nothing else draws random numbers, so a state needs no more than this, the steps that the scaler
skipped, and the size of the batches. A state is a kept folder: a file of torch, with the log of the
steps before, and its digest.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        batch_size: Pairs of a step. It may follow from the number of processes, and a state of
            other batches is not used.
        skipped: How many steps the scaler has skipped, since their gradient was not finite: of
            all, and of the last ones in a row.
        step: The first step to take.
        seconds: What the steps before it took.
        log: Their lines.
    """

    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    batch_size: int
    skipped: tuple[int, int] = (0, 0)
    step: int = 0
    seconds: float = 0.0
    log: str = ""

    def content(self) -> dict[str, Any]:
        """Return all that is saved."""
        return {
            **vars(self),
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    @torch.no_grad()
    def load(self, content: dict[str, Any]) -> None:
        """Continue from what was saved."""
        for name, parameter in self.trained.items():
            parameter.copy_(content["trained"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        for name in ("skipped", "step", "seconds", "log"):
            setattr(self, name, content[name])


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


def resume(state: TrainingState, scratch: Scratch, world: World) -> None:
    """Load the newest state that fits into `state`, if there is one.

    The writer chooses it, and removes newer ones with a warning: they are damaged, or of batches
    of another size.
    """
    chosen = content = None
    for folder in reversed(states_in(scratch) if world.is_writer else []):
        content = read_state(folder)
        if content is not None and content["batch_size"] == state.batch_size:
            chosen = folder
            break
        problem = "it is damaged" if content is None else "its batches have another size"
        logger.warning("%s cannot be resumed from: %s", folder.name, problem)
        shutil.rmtree(folder)  # it would be taken for a newer one of this run
    chosen = world.broadcast(chosen)
    if chosen is None:
        return
    content = content if world.is_writer else read_state(chosen)
    if content is None:
        raise TrainingError(
            f"{chosen}: cannot be read by process {world.rank}, and the others resume from it; is "
            "the store shared by all machines?"
        )
    state.load(content)
