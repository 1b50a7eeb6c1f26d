"""States from which a killed training resumes: trained parameters, optimizer, loss scaler, step.

The order of the data, their augmentation and the schedule are functions of the step (`schedule`),
and nothing else draws random numbers, so a state needs no more than this, the steps that the scaler
skipped, the log, and the size of the batches. A state is a kept file of the scratch, which drops
what is damaged before the next try.
"""

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from react_pipeline.store import Scratch, StoreWriteError, TrainingError
from react_pipeline.training.customization import World

logger = logging.getLogger(__name__)

KEPT_STATES = 2
"""How many of the newest states are kept: one more than needed, since the newest may be damaged."""


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
        log: Their lines of `metrics.jsonl`.
    """

    trained: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    batch_size: int
    skipped: tuple[int, int] = (0, 0)
    step: int = 0
    seconds: float = 0.0
    log: list[str] = field(default_factory=list)

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
    name = f"step-{content['step']:09d}"
    try:
        scratch.keep(name, partial(torch.save, content))
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        needed = 3 * sum(tensor.nbytes for tensor in content["trained"].values())
        raise StoreWriteError(
            f"{scratch.folder / name}: {error}; {needed:,} bytes are needed. Free space and run "
            "again"
        ) from error
    for path in states_in(scratch)[:-KEPT_STATES]:
        path.unlink()


def states_in(scratch: Scratch) -> list[Path]:
    """Return the files of all states, the newest last."""
    return sorted(scratch.folder.glob("step-*"))


def read_state(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Return what was saved."""
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return content


def resume(state: TrainingState, scratch: Scratch, world: World) -> None:
    """Load the newest state into `state`, if there is one.

    The writer chooses it, and removes those of batches of another size with a warning: they would
    be taken for newer ones of this run.
    """
    chosen = None
    for path in reversed(states_in(scratch) if world.is_writer else []):
        if read_state(path)["batch_size"] == state.batch_size:
            chosen = path
            break
        logger.warning("%s cannot be resumed from: its batches have another size", path.name)
        path.unlink()
    chosen = world.broadcast(chosen)
    if chosen is None:
        return
    try:
        state.load(read_state(chosen))
    except OSError as error:
        raise TrainingError(
            f"{chosen}: cannot be read by process {world.rank}, and the others resume from it; is "
            "the store shared by all machines?"
        ) from error
