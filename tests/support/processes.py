"""Processes of a test's own, forked from one that has loaded torch: loading takes seconds each
time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

KILL_SECONDS = 900

_CONTEXT = multiprocessing.get_context("forkserver")


def started(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Call a function of a test module in another process; its changes of modules are seen by no
    test.
    """
    _CONTEXT.set_forkserver_preload(["react_pipeline.training.customization"])
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


def train_until_killed(path: Path, step: int) -> None:
    """Train `gated-image` on the pairs of `shapes`, and kill this process at a step."""
    from react_pipeline.project.project import Project
    from react_pipeline.training.customization import customize
    from react_pipeline.training.step import TrainingStep

    take = TrainingStep.take

    def dying(self: TrainingStep, number: int, *rest: Any, **options: Any) -> Any:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, number, *rest, **options)

    TrainingStep.take = dying  # type: ignore[method-assign]
    customize(Project.load(path), "shapes", "gated-image")
