"""The real daemon with the real code location, on a Dagster home and a pipeline of a test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from assets.resources import REPOSITORY
from react_pipeline.lineage import Project
from react_pipeline.project import CONFIG_VARIABLE

STOP_SECONDS = 30


@contextmanager
def running_daemon(project: Project, home: Path) -> Iterator[Path]:
    """`dagster-daemon run` with the code location of this repository, until the context ends; gives its log.

    `home` is a `DAGSTER_HOME` with its dagster.yaml (`support_launch.dagster_home`). A run that is still going on is
    ended too.
    """
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        CONFIG_VARIABLE: str(project.path),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = home / "daemon.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            [sys.executable, "-c", "from dagster._daemon.cli import main; main()", "run", "-w", "workspace.yaml"],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if daemon.poll() is None:
                os.killpg(daemon.pid, wanted)
                deadline = time.monotonic() + STOP_SECONDS
                while daemon.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.1)


def wait_for(happened: Callable[[], bool], seconds: float, what: str, log: Path) -> None:
    """Return as soon as something happened.

    Raises:
        AssertionError: With the end of the daemon's log, if it did not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return
        time.sleep(0.5)
    raise AssertionError(f"{what}: not after {seconds:.0f} seconds\n{log.read_text(errors='replace')[-6000:]}")
