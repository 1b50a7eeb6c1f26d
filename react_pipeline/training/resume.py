"""States from which a killed training resumes: trained parameters, optimizer, loss scaler, step.

The order of the data, the views of it and the schedule are functions of the step (`schedule`), and
nothing else draws random numbers, so a state needs no more than this, a count of skipped steps, and
what the draws depend on. A state is a file of torch and a marker that vouches for it (`seal`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from react_pipeline.store import StoreWriteError, seal, sealed

logger = logging.getLogger(__name__)

KEPT_STATES = 2
"""How many of the newest states are kept: one more than needed, since the newest may be damaged."""

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

    def content(self, copied: bool = False) -> dict[str, Any]:
        """The tensors and the rest that is saved.

        Args:
            copied: Into the host's memory, where later steps change nothing.
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
        }

    def record(self, step: int, seconds: float) -> dict[str, Any]:
        """What the marker keeps."""
        return {
            "step": step,
            "seconds": seconds,
            "skipped": [self.skipped_steps, self.skipped_in_a_row],
            "draws": self.draws,
            "shapes": self.shapes,
        }


def save_state(state: TrainingState, step: int, seconds: float, directory: Path) -> None:
    """Write the state after `step` steps and `seconds`, and remove all but the newest
    `KEPT_STATES`.

    Raises:
        StoreWriteError: If the disk refuses it, with the bytes needed.
    """
    _write(state.content(), state.record(step, seconds), directory)


class StateWriter:
    """Saves the states of a training, a large one while the next steps are taken.

    Leaving waits for it, except after an interrupt: it is then left as by a kill.
    """

    def __init__(self, directory: Path) -> None:
        """`directory`: where the states are."""
        self._directory = directory
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, state: TrainingState, step: int, seconds: float) -> None:
        """As `save_state`; an error behind the steps is raised by the next call or on leaving."""
        self._finish()
        if state.size_bytes <= LARGE_BYTES:
            save_state(state, step, seconds, self._directory)
            return
        content, record = state.content(copied=True), state.record(step, seconds)
        # A daemon, for which an interrupted process does not wait.
        self._thread = Thread(target=self._write, args=(content, record), daemon=True)
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

    def _write(self, content: dict[str, Any], record: dict[str, Any]) -> None:
        try:
            _write(content, record, self._directory)
        except Exception as error:
            self._error = error


def _write(content: dict[str, Any], record: dict[str, Any], directory: Path) -> None:
    path = directory / f"step-{record['step']:09d}.pt"
    try:
        torch.save(content, path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        needed = 3 * sum(tensor.nbytes for tensor in content["trained"].values())
        raise StoreWriteError(
            f"{path}: {error}; {needed:,} bytes are needed. Free space and run again"
        ) from error
    seal(path.with_suffix(".json"), [path], record)
    for marker in states_in(directory)[:-KEPT_STATES]:
        _remove(marker)


def states_in(directory: Path) -> list[Path]:
    """The markers of all states, the newest last."""
    return sorted(directory.glob("step-*.json"))


def load_newest_state(directory: Path, state: TrainingState, logged: int) -> tuple[int, float]:
    """Put the newest state that fits into `state`; return its step and seconds, 0 where none does.

    States that are damaged, whose batches were drawn otherwise, or of a step after the first
    `logged` ones are skipped with a warning: losses that are not on record are computed again.
    """
    for marker in reversed(states_in(directory)):
        record = sealed(marker)
        problem = _problem(record, state, logged)
        if problem:
            logger.warning(
                "%s cannot be resumed from (%s); trying an older state", marker.name, problem
            )
            continue
        content = torch.load(marker.with_suffix(".pt"), map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, parameter in state.trained.items():
                parameter.copy_(content["trained"][name])
        state.optimizer.load_state_dict(content["optimizer"])
        state.scaler.load_state_dict(content["scaler"])
        state.skipped_steps, state.skipped_in_a_row = record["skipped"]
        return record["step"], record["seconds"]
    return 0, 0.0


def remove_states_after(step: int, directory: Path) -> None:
    """Remove states newer than the one resumed: they would be taken for newer ones of this run."""
    for marker in states_in(directory):
        if marker.stem > f"step-{step:09d}":
            _remove(marker)


def _problem(record: dict[str, Any] | None, state: TrainingState, logged: int) -> str:
    """Why a state is not used; empty if it may be."""
    if record is None:
        return "its bytes are not those that were written"
    if record["draws"] != state.draws:
        return f"its batches were {record['draws']}, and are {state.draws} now"
    if record["step"] > logged:
        return f"the log holds {logged} steps alone"
    return "" if record["shapes"] == state.shapes else "it holds other parameters"


def _remove(marker: Path) -> None:
    marker.unlink()
    marker.with_suffix(".pt").unlink(missing_ok=True)
