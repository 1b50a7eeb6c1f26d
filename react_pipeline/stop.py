"""A stop: SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt in a command, which then ends with one
line, the exit code of the signal, and no child process.

A stop is safe at any point, since an artifact is absent, or complete and verified. Where Dagster
replaces the signals' actions, or the exception becomes another one in C++, the number of the signal
is in a pipe: the interpreter itself writes it there (`signal.set_wakeup_fd`).

Imports the standard library alone, so that a command is watched before anything else is loaded;
psutil is imported when a stop came.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHILD_SECONDS = 1.5
"""Seconds that child processes have to end after SIGTERM."""

LINE = "error: interrupted; the same command can be run again, and keeps what was finished"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_pipe = -1
_number = 0


def requested() -> bool:
    """Return whether a signal asked this process to stop."""
    global _number
    with suppress(OSError):  # nothing came
        came = os.read(_pipe, 4096)
        _number = _number or next((number for number in came if number in _SIGNALS), 0)
    return _number != 0


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if a signal asked to stop and something caught it; call it between
    steps.
    """
    if requested():
        raise KeyboardInterrupt


@contextmanager
def watched() -> Iterator[None]:
    """Run a command; a stop ends it with exit code 128 + the number of the signal, whatever error
    the exception became. A command that catches it and succeeds ends as usual.
    """
    _watch()
    try:
        yield
    except BaseException as error:
        # Dagster's public modules do not have its exception.
        is_stop = isinstance(error, KeyboardInterrupt) or (
            type(error).__name__ == "DagsterExecutionInterruptedError"
        )
        is_success = isinstance(error, SystemExit) and not error.code
        if is_success or not (requested() or is_stop):
            raise
    else:
        return
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # `python -m` ends by SIGINT if the exception passed an `exec` of a text, as in dataclasses;
    # this resets it.
    exec("")  # noqa: S102
    with suppress(OSError):  # standard error is closed
        start = "\n" if os.isatty(2) else ""  # there may be a progress bar
        os.write(2, f"{start}{LINE}\n".encode())
    _end_children()
    sys.exit(128 + (_number or signal.SIGINT))


def _watch() -> None:
    global _pipe
    _pipe, write_end = os.pipe()
    for end in (_pipe, write_end):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_leave_to_parent)
    for number in _SIGNALS:
        # Also in a shell that ignores SIGINT, as scripts do for what they start in the background:
        # Dagster would then ignore SIGTERM as well. Under `nohup` SIGHUP stays ignored.
        if number != signal.SIGHUP or signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    report_dropped, report_thread = sys.unraisablehook, threading.excepthook

    def dropped(failure: sys.UnraisableHookArgs) -> None:
        # Python drops it in a weak reference's callback or a `__del__`.
        if issubclass(failure.exc_type, KeyboardInterrupt):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            report_dropped(failure)

    def thread_failed(failure: threading.ExceptHookArgs) -> None:
        if not requested():  # else what it needs is gone
            report_thread(failure)

    sys.unraisablehook, threading.excepthook = dropped, thread_failed


def _leave_to_parent() -> None:
    """Give a process that was forked its own signals."""
    global _pipe, _number
    _pipe, _number = -1, 0
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)


def _end_children() -> None:
    """End every process below this one; those that clean up behind it are left out."""
    import psutil

    children = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "resource_tracker" not in " ".join(process.cmdline()):
                process.terminate()
                children.append(process)
    _, living = psutil.wait_procs(children, CHILD_SECONDS)
    for process in living:
        with suppress(psutil.Error):
            process.kill()
