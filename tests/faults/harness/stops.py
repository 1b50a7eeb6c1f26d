"""Stops of whole commands at random points: `python tests/faults/harness/stops.py PIPELINE.YAML
--trials 200`.

Each trial starts `react-pipeline materialize` in a fork of a process that has loaded everything, or
(each eighth) as a program of its own, and sends SIGINT, SIGTERM or SIGHUP at a random time after it
is watched. It must end with the code of the signal, one line on stderr and no process left. One
that ends before its signal comes does not count, and the next begins a fresh store.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from react_pipeline.stop import LINE

HANG_SECONDS = 600
PROGRAM_SHARE = 8


def arguments_of(path: Path) -> list[str]:
    return [
        "materialize",
        "--config",
        str(path),
        "--domain",
        "shapes",
        "--method",
        "base",
        "--method",
        "gated-image",
    ]


def load() -> None:
    """What the command imports on its way, so that a fork is at work at once."""
    import mlflow.pyfunc
    import open_clip
    import torch

    import react_pipeline.assets.launch
    import react_pipeline.commands.cli
    import react_pipeline.training  # noqa: F401

    torch.set_num_threads(1)
    assert mlflow.pyfunc and open_clip


def fork(path: Path, output: Path, *, ignoring: bool) -> int:
    """Start the command in a fork; returns its process id."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        os.setsid()
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(
                number, signal.SIG_IGN if ignoring and number == signal.SIGINT else signal.SIG_DFL
            )
        sys.argv[1:] = arguments_of(path)
        from react_pipeline.__main__ import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def start(path: Path, output: Path, *, ignoring: bool) -> int:
    """Start it as a program; returns its process id."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.SIG_DFL)

    command = [sys.executable, "-m", "react_pipeline", *arguments_of(path)]
    with output.open("wb") as file:
        started = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, preexec_fn=prepare
        )
    started.returncode = 0  # waited for by its id
    return started.pid


def wait(process: int, seconds: float) -> int | None:
    """The exit code, as of `subprocess`; None: it still runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def wait_for_watch(process: int) -> None:
    """Until the program catches SIGTERM: before, a signal has the effect that the shell chose."""
    caught, bit = 0, 1 << (signal.SIGTERM - 1)
    while not caught & bit:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        time.sleep(0.01)


def left(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def complaints(code: int | None, number: int, output: str, session: int) -> Iterator[str]:
    """What is wrong with the end of one command."""
    if code is None:
        yield f"runs after {HANG_SECONDS} s"
    elif code != 128 + number:
        yield f"exit code {code}"
    if output.count(LINE) != 1:
        yield f"{output.count(LINE)} lines"
    if "Traceback" in output or "Exception ignored" in output:
        yield "a traceback"
    time.sleep(0.1)
    if remaining := left(session):
        yield f"left {remaining}"
        for process in remaining:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)


def run(path: Path, trials: int, seed: int) -> int:
    """Print a line for each trial; returns how many went wrong."""
    dice, done, wrong, longest = random.Random(seed), 0, 0, 0.0  # noqa: S311
    span, store = 6.0, path.parent / "store"
    with tempfile.TemporaryDirectory() as folder:
        while done < trials:
            output = Path(folder, "output")
            number, ignoring = (
                dice.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
                dice.random() < 0.25,
            )
            begin = start if done % PROGRAM_SHARE == PROGRAM_SHARE - 1 else fork
            output.unlink(missing_ok=True)
            process = begin(path, output, ignoring=ignoring)
            wait_for_watch(process)
            delay = dice.uniform(0, 3 * span if begin is start else span)
            code = wait(process, delay)
            if code is not None:
                assert code == 0, output.read_text()
                span = 0.8 * delay
                for made in (store, path.parent / "home", path.parent / "mlruns"):
                    shutil.rmtree(made, ignore_errors=True)
                continue
            sent = time.monotonic()
            os.kill(process, number)
            code = wait(process, HANG_SECONDS)
            seconds = time.monotonic() - sent
            text = output.read_text(errors="replace")
            bad = list(complaints(code, number, text, process))
            done, wrong, longest = done + 1, wrong + bool(bad), max(longest, seconds)
            print(
                done,
                begin.__name__,
                number.name,
                f"after {delay:.2f} s, {seconds:.2f} s",
                *bad,
                flush=True,
            )
            if bad:
                print(text, flush=True)
    print(f"{done} stops, {wrong} wrong, longest {longest:.1f} s")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["DAGSTER_HOME"] = str(options.pipeline.parent / "home")
    load()
    return min(run(options.pipeline, options.trials, options.seed), 100)


if __name__ == "__main__":
    sys.exit(main())
