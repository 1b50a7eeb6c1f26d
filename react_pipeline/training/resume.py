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
from threading import Thread
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from react_pipeline.store import Scratch, StoreWriteError, sha256_of

logger = logging.getLogger(__name__)

KEPT_STATES = 2
"""How many of the newest states are kept: one more than needed, since the newest may be damaged."""

STATE, DIGEST = "state.pt", "sha256"

LARGE_BYTES = 1 << 30
"""A larger state is written while the training continues, from a copy in the host's memory."""


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

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The shape of each trained parameter."""
        return {name: list(parameter.shape) for name, parameter in self.trained.items()}

    @property
    def size_bytes(self) -> int:
        """Bytes of the parameters and of AdamW's two moments."""
        return 3 * sum(parameter.nbytes for parameter in self.trained.values())

    def content(self, step: int, seconds: float, log: str, copied: bool = False) -> dict[str, Any]:
        """All that is saved after `step` steps.

        Args:
            copied: The tensors, into the host's memory, where later steps change nothing.
        """

        def kept(tensor: Tensor) -> Tensor:
            return tensor.to("cpu", copy=True) if copied else tensor

        optimizer = self.optimizer.state_dict()
        moments = {
            number: {name: kept(value) for name, value in values.items()}
            for number, values in optimizer["state"].items()
        }
        return {
            "trained": {name: kept(value.detach()) for name, value in self.trained.items()},
            "optimizer": {**optimizer, "state": moments},
            "scaler": self.scaler.state_dict(),
            "log": log,
            "step": step,
            "seconds": seconds,
            "skipped": [self.skipped_steps, self.skipped_in_a_row],
            "draws": self.draws,
            "shapes": self.shapes,
        }


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


class StateWriter:
    """Saves the states of a training, a large one while the next steps are taken.

    Leaving waits for it, except after an interrupt: it is then left as by a kill.
    """

    def __init__(self, scratch: Scratch) -> None:
        """`scratch`: where the states are."""
        self._scratch = scratch
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, state: TrainingState, step: int, seconds: float, log: str) -> None:
        """Save the state after `step` steps and `seconds`; an error behind the steps is raised by
        the next call or on leaving.
        """
        self._finish()
        copied = state.size_bytes > LARGE_BYTES
        content = state.content(step, seconds, log, copied)
        if not copied:
            save_state(content, self._scratch)
            return
        # A daemon, for which an interrupted process does not wait.
        self._thread = Thread(target=self._write, args=(content,), daemon=True)
        self._thread.start()

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        elif self._thread and issubclass(kind, Exception):
            self._thread.join()

    def _finish(self) -> None:
        if self._thread:
            self._thread.join()
        if self._error:
            raise self._error

    def _write(self, content: dict[str, Any]) -> None:
        try:
            save_state(content, self._scratch)
        except Exception as error:
            self._error = error


def states_in(scratch: Scratch) -> list[Path]:
    """The folders of all states, the newest last."""
    return sorted(scratch.folder.glob("step-*"))


def load_newest_state(scratch: Scratch, state: TrainingState) -> tuple[int, float, str]:
    """Put the newest state that fits into `state`; return its step, seconds and log, or 0 and no
    log where none does.

    States that are damaged, or whose batches were drawn otherwise, are skipped with a warning.
    """
    for folder in reversed(states_in(scratch)):
        content = read_state(folder)
        problem = _problem(content, state)
        if content is None or problem:
            logger.warning(
                "%s cannot be resumed from (%s); trying an older state", folder.name, problem
            )
            continue
        with torch.no_grad():
            for name, parameter in state.trained.items():
                parameter.copy_(content["trained"][name])
        state.optimizer.load_state_dict(content["optimizer"])
        state.scaler.load_state_dict(content["scaler"])
        state.skipped_steps, state.skipped_in_a_row = content["skipped"]
        return content["step"], content["seconds"], content["log"]
    return 0, 0.0, ""


def remove_states_after(step: int, scratch: Scratch) -> None:
    """Remove states newer than the one resumed: they would be taken for newer ones of this run."""
    for folder in states_in(scratch):
        if folder.name > f"step-{step:09d}":
            shutil.rmtree(folder)


def read_state(folder: Path, device: str = "cpu") -> dict[str, Any] | None:
    """What was saved, or None if a byte of it has changed since."""
    try:
        if (folder / DIGEST).read_bytes() != sha256_of(folder / STATE).encode():
            return None
    except OSError:
        return None
    content: dict[str, Any] = torch.load(folder / STATE, map_location=device, weights_only=True)
    return content


def _problem(content: dict[str, Any] | None, state: TrainingState) -> str:
    """Why a state is not used; empty if it may be."""
    if content is None:
        return "its bytes are not those that were written"
    if content["draws"] != state.draws:
        return f"its batches were {content['draws']}, and are {state.draws} now"
    return "" if content["shapes"] == state.shapes else "it holds other parameters"
