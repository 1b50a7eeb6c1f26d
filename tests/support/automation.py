"""The real daemon with the real code location on a home of a
test's own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from conftest import REPOSITORY

from react_pipeline.extensions.ui.servers import SIGNALS, listen_to_signals
from react_pipeline.project.project import CONFIG_VARIABLE, Project
from support.launch import code_location
from support.services import running

Asked = set[tuple[str, str | None]]


def repository(project: Project) -> dg.RepositoryDefinition:
    return code_location(project).get_repository_def()


@contextmanager
def running_daemon(project: Project, home: Path) -> Iterator[Path]:
    """`dagster-daemon run` with the code location of this repository, until the context ends; gives
    its log.

    `home` is a `DAGSTER_HOME` with its dagster.yaml (`support.launch.dagster_home`). A run that is
    still going on is ended too.
    """
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        CONFIG_VARIABLE: str(project.path),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    log = home / "daemon.log"
    daemon = "from dagster._daemon.cli import main; main()"
    command = [sys.executable, "-c", daemon, "run", "-w", "workspace.yaml"]
    with running(
        command, log, SIGNALS, env=environment, cwd=REPOSITORY, preexec_fn=listen_to_signals
    ):
        yield log


def hurry(home: Path) -> None:
    """Let the monitoring of runs look every 3 seconds, and free the place of an ended one
    after 5.
    """
    path = home / "dagster.yaml"
    text = path.read_text()
    for field, usual, seconds in (
        ("poll_interval_seconds", 30, 3),
        ("free_slots_after_run_end_seconds", 60, 5),
    ):
        assert f"{field}: {usual}" in text
        text = text.replace(f"{field}: {usual}", f"{field}: {seconds}")
    path.write_text(text)


def training_under_way(instance: dg.DagsterInstance, method: str) -> dg.DagsterRun | None:
    """The run that trains a method, once it has reported of a step; None before."""
    wanted = dg.RunsFilter(tags={"method": method}, statuses=[dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(wanted):
        trains = any(key.path[-1] == "customized_checkpoint" for key in run.asset_selection or ())
        if trains and any(": loss " in one.message for one in instance.all_logs(run.run_id)):
            return run
    return None


def wait_for(happened: Callable[[], object], seconds: float, what: str, log: Path) -> None:
    """Return as soon as something happened.

    Raises:
        AssertionError: With the end of the daemon's log, if it did not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return
        time.sleep(0.5)
    raise AssertionError(
        f"{what}: not after {seconds:.0f} seconds\n{log.read_text(errors='replace')[-6000:]}"
    )
