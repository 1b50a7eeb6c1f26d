"""Processes of a test's own, forked from one that has loaded torch: loading takes seconds each
time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

KILL_SECONDS = 900
LOADED = ["react_pipeline.training.customization", "open_clip", "pandas", "faiss", "duckdb"]

_CONTEXT = multiprocessing.get_context("forkserver")


def started(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Call a function of a test module in another process; its changes of modules are seen by no
    test.
    """
    _CONTEXT.set_forkserver_preload(LOADED)
    process = _CONTEXT.Process(target=_call, args=(function, *arguments))
    process.start()
    return process


def _call(function: Callable[..., object], *arguments: object) -> None:
    # Decoding processes are forked, as they are where nothing says otherwise on Linux.
    multiprocessing.set_start_method("fork", force=True)
    function(*arguments)


def killed(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in another process, which it must end with SIGKILL."""
    process = started(function, *arguments)
    process.join(KILL_SECONDS)
    assert process.exitcode == -signal.SIGKILL


def forked(action: Callable[[], object], result: Path) -> BaseProcess:
    """Begin a call in a process forked from this one. Once that has ended by itself, a file holds
    what the call returned, or raised.
    """

    def call() -> None:
        value, error, text = None, "", ""
        try:
            value = action()
        except BaseException as raised:
            error, text = type(raised).__name__, traceback.format_exc(limit=-4)
        result.write_text(json.dumps({"value": value, "error": error, "text": text}))

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    return process


def fast_folder() -> tempfile.TemporaryDirectory[str]:
    """A fresh folder in memory, where the system has a place for it: faster than a disk."""
    memory = "/dev/shm"  # noqa: S108
    return tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None)  # noqa: PTH112


def die(*_: object, **__: object) -> None:
    """End this process as the kernel does where memory ends."""
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(path: Path, step: int) -> None:
    """Train `gated-image` on the pairs of `shapes`, and kill this process at a step."""
    from react_pipeline.project.project import Project
    from react_pipeline.training.customization import customize
    from react_pipeline.training.step import TrainingStep

    take = TrainingStep.take

    def dying(self: TrainingStep, number: int, *rest: Any, **options: Any) -> Any:
        if number == step:
            die()
        return take(self, number, *rest, **options)

    TrainingStep.take = dying  # type: ignore[method-assign]
    customize(Project.load(path), "shapes", "gated-image")
