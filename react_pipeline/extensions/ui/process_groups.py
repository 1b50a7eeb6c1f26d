"""Programs in process groups of their own, which are ended with all their children in bounded time.

Does not belong here: which programs (`servers`).
"""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil

STOP_SECONDS = 10.0
"""Seconds that a group has to end after each signal."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def listen_to_signals() -> None:
    """Undo in a child, before its program begins, that this process ignores SIGINT, as a script's
    background does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def end(groups: Iterable[int], signals: Sequence[signal.Signals] = SIGNALS) -> None:
    """End process groups: each signal goes to all that still have a living process, which then has
    `STOP_SECONDS`.

    A group has the id of its leader, which may be dead already.
    """
    groups_alive = living(groups)
    for number in signals:
        for group in groups_alive:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        deadline = time.monotonic() + STOP_SECONDS
        while (groups_alive := living(groups_alive)) and time.monotonic() < deadline:
            time.sleep(0.05)


def living(groups: Iterable[int]) -> set[int]:
    """The groups that still have a process other than a zombie."""
    leaders = set(groups)
    alive = set()
    for process in psutil.process_iter() if leaders else ():
        with suppress(ProcessLookupError, psutil.Error):
            group = os.getpgid(process.pid)
            if group in leaders and process.status() != psutil.STATUS_ZOMBIE:
                alive.add(group)
    return alive
