"""A stop ends a command with one line and its children: raised, dropped by Python, turned into
another error, or sent to a fork.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from react_pipeline import stop
from react_pipeline.assets import launch
from react_pipeline.assets.retries import INTERRUPTED, readable_failures
from react_pipeline.project.project import Project
from react_pipeline.stop import LINE

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
ROOT = Path(__file__).parents[2]
HANG_SECONDS = 600

PRELUDE = """
import os, signal, subprocess, sys, threading, time, weakref
from react_pipeline import stop
number = int(sys.argv[1])
class Thing: pass
def send(*_):
    os.kill(os.getpid(), number)
    for _ in range(100): pass
"""
WAIT = """
    try:
        while True: time.sleep(0.1)
    except KeyboardInterrupt: print("raised", flush=True); raise
"""
DROPPED = (
    """
with stop.watched():
    thing = Thing()
    reference = weakref.ref(thing, send)
    del thing
    print("goes on", flush=True)
"""
    + WAIT
)
IN_DEL = (
    """
class Deleted:
    __del__ = send
with stop.watched():
    Deleted()
"""
    + WAIT
)
WITH_CHILD = """
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
with stop.watched():
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    print(child.pid, flush=True)
    send()
"""
OTHER_ERROR = """
with stop.watched():
    try: send()
    except BaseException: raise RuntimeError("computation interrupted")
"""
IN_EXEC = """
import psutil  # its import runs texts, which would hide what the one below does
with stop.watched():
    exec("send()")
"""
HANDLED = """
with stop.watched():
    try: send()
    except BaseException: print("own way")
    sys.exit(0)
"""
BY_DAGSTER = """
class DagsterExecutionInterruptedError(BaseException): pass
def interrupt(*_): raise DagsterExecutionInterruptedError
with stop.watched():
    signal.signal(number, interrupt)
    send()
"""
TRACEBACK = """
def fail(): raise ValueError("its files are gone")
with stop.watched():
    try: send()
    finally: thread = threading.Thread(target=fail); thread.start(); thread.join()
"""


def run(
    code: str, number: int, *, ignoring: bool = False, file: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, which is a module where a file is given."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.SIG_DFL)

    program = ["-c", PRELUDE + code]
    if file:
        file.write_text(PRELUDE + code)
        program = ["-m", file.stem]
    return subprocess.run(
        [sys.executable, *program, str(int(number))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=file.parent if file else ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        preexec_fn=prepare,
    )


def stopped_by(number: int, code: str, **options: Any) -> str:
    """Run a program that a signal ends with one line; returns what it printed."""
    done = run(code, number, **options)
    assert (done.returncode, done.stderr) == (128 + number, LINE + "\n")
    return done.stdout


@SIGNALS
@pytest.mark.parametrize("ignoring", [False, True], ids=["terminal", "ignoring"])
@pytest.mark.parametrize("code", [DROPPED, IN_DEL], ids=["weakref", "del"])
def test_a_stop_that_python_drops_is_raised_again(code: str, number: int, ignoring: bool) -> None:
    assert stopped_by(number, code, ignoring=ignoring).endswith("raised\n")


@SIGNALS
def test_a_stop_ends_the_children(number: int) -> None:
    child = int(stopped_by(number, WITH_CHILD))
    # On a busy machine it gets its last turn later than the one that killed it.
    until = time.monotonic() + HANG_SECONDS
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it still lives"
        time.sleep(0.02)


@SIGNALS
@pytest.mark.parametrize(
    "code", [OTHER_ERROR, BY_DAGSTER, TRACEBACK], ids=["other error", "dagster", "thread"]
)
def test_a_stop_counts_whatever_it_becomes(code: str, number: int) -> None:
    stopped_by(number, code)


@SIGNALS
def test_python_itself_does_not_change_the_exit_code(number: int, tmp_path: Path) -> None:
    stopped_by(number, IN_EXEC, file=tmp_path / "program.py")


def test_a_foreign_exception_is_reported_as_python_does() -> None:
    panic = "type('PanicException', (BaseException,), {})('index out of range')"
    done = run(f"\nwith stop.watched(): raise {panic}", 15)
    assert done.returncode == 1 and "index out of range" in done.stderr and LINE not in done.stderr


@SIGNALS
def test_a_command_that_handles_a_stop_ends_in_its_own_way(number: int) -> None:
    done = run(HANDLED, number)
    assert (done.returncode, done.stdout, done.stderr) == (0, "own way\n", "")


def test_a_command_outlives_its_terminal_under_nohup() -> None:
    code = "\nsignal.signal(number, signal.SIG_IGN)\nwith stop.watched(): send(); print('goes on')"
    done = run(code, signal.SIGHUP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


@SIGNALS
def test_a_fork_is_ended_by_a_signal_and_stops_nobody_else(number: int) -> None:
    forking = """
with stop.watched():
    reads, writes = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.write(writes, b"ready")
            while True: time.sleep(0.1)  # a signal just before a sleep does not end it
        except KeyboardInterrupt:
            for _ in range(100): pass  # here Python complains of a pipe that is closed
            os._exit(7)
    os.read(reads, 5)
    os.kill(process, number)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code == (7 if number == signal.SIGINT else -number), code
    assert not stop.requested()
"""
    done = run(forking, number)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_standard_error_takes_no_stop_away() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + DROPPED, "15"],
        preexec_fn=lambda: os.close(2),
        stdout=subprocess.DEVNULL,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 128 + signal.SIGTERM


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a stop that something caught."""
    monkeypatch.setattr(stop, "_number", signal.SIGINT)


def test_a_launch_begins_no_further_run(
    tiny_project: Project, stopped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tiny_project.path.parent / "home"))
    with pytest.raises(KeyboardInterrupt):
        launch.materialize("corpus", ["shapes"], ["base"], tiny_project.path)
    assert not tiny_project.store.keys("corpus")


@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_an_error_that_a_stop_became_is_not_tried_again(
    error: type[Exception], stopped: None
) -> None:
    with pytest.raises(dg.Failure, match=INTERRUPTED) as failure, readable_failures():
        raise error("computation interrupted")
    assert not failure.value.allow_retries
