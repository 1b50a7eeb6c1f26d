"""A stop: SIGINT or SIGTERM to a command, which ends within seconds, with one line and no process
left behind.

Python raises the exception of a signal wherever the main thread is. In a weak reference's callback
or a `__del__` it is printed and dropped, in C++ it becomes another error, and a library may catch
it: the command would go on. So each signal is also written to a pipe by the interpreter itself
(`signal.set_wakeup_fd`), whoever handles it. A thread reads it, raises it again where it was
dropped, and ends the process when `GRACE_SECONDS` are over. That is safe at any point: an artifact
is absent, or complete and verified.

Imports the standard library alone, so that a command is watched before anything else is loaded;
psutil is imported when a stop came.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

AGAIN_SECONDS = 3.0
"""Without an end after this long, a stop is raised again: something caught it."""

GRACE_SECONDS = 6.5
"""To save the state of a training and to tell Dagster and MLflow."""

CHILD_SECONDS = 1.5
"""What child processes have to end after SIGTERM."""

LINE = "error: interrupted; the same command can be run again, and keeps what was finished"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_DROPPED = 0
"""Written to the pipe, in the place of a signal's number, when an exception was dropped."""

_watch: _Watch | None = None


def requested() -> bool:
    """Whether a signal asked this process to stop."""
    return _watch is not None and _watch.number != 0


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if a signal asked to stop and something caught it; call it between
    steps.
    """
    if requested():
        raise KeyboardInterrupt


def stop_in_own_way() -> None:
    """From here on the command ends in its own way, such as one that has servers to end; loading is
    over.

    Raises:
        KeyboardInterrupt: If it was to stop before, and something caught that.
    """
    raise_if_stopped()
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    if _watch is not None:
        _watch.leave()


@contextmanager
def watched() -> Iterator[None]:
    """Run a command; a stop ends it with exit code 128 + the number of the signal, whatever was
    raised meanwhile.

    Also in a shell that ignores SIGINT, as scripts do for what they start in the background:
    Dagster would then ignore SIGTERM as well.
    """
    global _watch
    watch = _watch = _Watch()
    try:
        yield
    except BaseException as error:
        if is_stop(type(error)):  # the thread may not have read of it yet
            watch.number = watch.number or signal.SIGINT
        if not watch.number:
            raise
    finally:
        # A command that ended has nothing to resume; one that was stopped needs no second signal.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN if watch.number else signal.SIG_DFL)
    if watch.number:
        # `python -m` ends by SIGINT if the exception passed an `exec` of a text, as in dataclasses;
        # this resets it.
        exec("")  # noqa: S102
        watch.end(sys.exit)


def is_stop(kind: type[BaseException]) -> bool:
    """Whether an exception is that of a signal: Python's own, or Dagster's, which its public
    modules do not have.
    """
    return (
        issubclass(kind, KeyboardInterrupt) or kind.__name__ == "DagsterExecutionInterruptedError"
    )


class _Watch:
    """The pipe, the thread that reads it, and what it does.

    Attributes:
        number: The signal that came; 0: none.
    """

    def __init__(self) -> None:
        """Called from the main thread."""
        self.number = 0
        self._left = False
        self._raise = True
        self._ending = threading.Lock()
        self._main = threading.get_ident()
        self._terminal = -1
        with suppress(OSError):  # closed
            # Dagster captures what steps write by another file in the place of descriptor 2.
            self._terminal = os.dup(2)
        self._children: set[Any] = set()
        self._pipe, self._write_end = os.pipe()
        for end in (self._pipe, self._write_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_as_child)
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        self._report_dropped = sys.unraisablehook
        sys.unraisablehook = self._dropped
        self._report_thread = threading.excepthook
        threading.excepthook = self._thread_failed
        threading.Thread(target=self._run, name="stop", daemon=True).start()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        # A stop is raised once, and again only where it was lost: what cleans up is not disturbed
        # by a second Ctrl-C.
        if not self._raise:
            return
        self._raise = False
        self.number = self.number or number
        raise KeyboardInterrupt

    def leave(self) -> None:
        """Take no part in a stop that comes from now on."""
        self._left = True

    def abandon(self) -> None:
        """Undo all but the signals' actions, in a fork: the pipe and the hooks are its parent's."""
        if sys.unraisablehook == self._dropped:
            sys.unraisablehook = self._report_dropped
        if threading.excepthook == self._thread_failed:
            threading.excepthook = self._report_thread
        for descriptor in (self._pipe, self._write_end, self._terminal):
            with suppress(OSError):
                os.close(descriptor)
        self._pipe = self._write_end = self._terminal = -1  # a hook that wraps ours may still write

    def end(self, leave: Callable[[int], Any]) -> None:
        """Say so, end all child processes, and leave."""
        if self._ending.acquire(blocking=False):
            self._say()
            if not self._left:
                end_processes(self._children | set(descendants()))
        else:
            time.sleep(CHILD_SECONDS + 0.5)  # the other thread is at it
        leave(128 + self.number)

    def _say(self) -> None:
        with suppress(OSError, ValueError):
            if select.select([], [self._terminal], [], 0)[1]:
                start = "\n" if os.isatty(self._terminal) else ""  # there may be a progress bar
                os.write(self._terminal, f"{start}{LINE}\n".encode())

    def _run(self) -> None:
        dropped = False
        while not self.number:
            dropped = self._read(None)
            if self._left:
                return
        now = time.monotonic()
        end = now + GRACE_SECONDS
        again = now + AGAIN_SECONDS
        self._children = set(descendants())
        while now < end:
            # Not while Python finalizes, which puts the signals' own actions back: it would kill
            # the process.
            if (dropped or now >= again) and not self._ending.locked():
                again = now + AGAIN_SECONDS
                self._raise = True
                signal.pthread_kill(self._main, signal.SIGINT)
            dropped = self._read(max(0.0, min(end, again) - now))
            now = time.monotonic()
        self.end(os._exit)

    def _read(self, seconds: float | None) -> bool:
        """Wait for what the pipe brings; returns whether an exception was dropped."""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return False
        came = os.read(self._pipe, 4096)
        if not self._left:
            self.number = self.number or next((number for number in came if number in _SIGNALS), 0)
        return _DROPPED in came

    def _dropped(self, failure: sys.UnraisableHookArgs) -> None:
        if not is_stop(failure.exc_type):
            self._report_dropped(failure)
            return
        # The thread may raise it again before this hook returns, which Python would print; it does
        # so once more later.
        with suppress(OSError, KeyboardInterrupt):
            os.write(self._write_end, bytes([_DROPPED]))

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        if not self.number:  # else what it needs is gone
            self._report_thread(failure)


def _as_child() -> None:
    """A process that was forked has no part in this: its signals are its own."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    global _watch
    if _watch is not None:
        _watch.abandon()
    _watch = None


def descendants() -> list[Any]:
    """Every process (psutil's) below this one; those that clean up behind it are left out."""
    import psutil

    processes = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "resource_tracker" not in " ".join(process.cmdline()):
                processes.append(process)
    return processes


def end_processes(processes: Iterable[Any]) -> None:
    """SIGTERM, and SIGKILL for those that still live after `CHILD_SECONDS`."""
    import psutil

    living = list(processes)
    for number, seconds in ((signal.SIGTERM, CHILD_SECONDS), (signal.SIGKILL, 0.0)):
        for process in living:
            with suppress(psutil.Error):
                process.send_signal(number)
        deadline = time.monotonic() + seconds
        while (living := list(filter(_lives, living))) and time.monotonic() < deadline:
            time.sleep(0.02)


def _lives(process: Any) -> bool:
    import psutil

    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
