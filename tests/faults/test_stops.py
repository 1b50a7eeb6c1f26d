"""SIGINT, SIGTERM and SIGHUP at random points of a build: each ends it, and what is built in the
end is whole.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import PIPELINE
from support.training import records

from react_pipeline.project import Project
from react_pipeline.stop import LINE

TRIALS = 8
BUILD = [sys.executable, "-m", "react_pipeline", "materialize", "--domain", "shapes"]
BUILD += ["--method", "base", "--method", "gated-image"]


def wait_for_watch(process: int) -> None:
    """Until the program catches SIGTERM: before, a signal has the effect that the shell chose."""
    caught = 0
    while not caught & 1 << (signal.SIGTERM - 1):
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


@pytest.mark.slow
def test_a_build_ends_by_every_stop_and_resumes(
    make_project: Callable[..., Project], mlflow_database: Path, tmp_path: Path
) -> None:
    defaults = {**PIPELINE["customization"]["defaults"], "steps": 60, "checkpoint_every": 10}
    project = make_project(customization={"defaults": defaults})
    shutil.copy(mlflow_database, tmp_path)
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    chance, stops, span = random.Random(0), 0, 30.0  # noqa: S311 - reproducible

    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True}
    options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    while stops < TRIALS:
        number, delay = chance.choice([2, 15, 1]), chance.uniform(0, span)
        build = subprocess.Popen(BUILD, start_new_session=True, **options)
        wait_for_watch(build.pid)
        try:
            build.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            build.send_signal(number)
            _, said = build.communicate(timeout=600)
            assert (build.returncode, said.count(LINE)) == (128 + number, 1), said
            assert "Traceback" not in said and "Exception ignored" not in said, said
            assert not left(build.pid)
            stops += 1
        else:  # it ended before the stop: the next one begins a fresh store
            assert build.returncode == 0
            span = 0.8 * delay
            for made in (project.config.store, tmp_path / "home"):
                shutil.rmtree(made)

    finished = subprocess.run(BUILD, **options)
    assert finished.returncode == 0, finished.stderr
    checkpoint = project.store.current("customized_checkpoint", "shapes/gated-image")
    assert [record["step"] for record in records(checkpoint)] == list(range(60))
    assert not [error for _, error in project.store.verify() if error is not None]
