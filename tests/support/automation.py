"""Ticks of `upkeep` in this process, and the real daemon with the real code location on a home of a
test's own.
"""

from __future__ import annotations

import logging.handlers
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.partitions import DOMAINS, partitions_of
from react_pipeline.assets.reporting import readable_failures
from react_pipeline.assets.resources import REPOSITORY, ProjectResource
from react_pipeline.assets.runs import HIDDEN
from react_pipeline.extensions.ui.process_groups import end, listen_to_signals
from react_pipeline.project.project import CONFIG_VARIABLE, Project
from react_pipeline.settings.methods import METHODS
from react_pipeline.stage import STAGES

Asked = set[tuple[str, str | None]]


def repository(project: Project) -> dg.RepositoryDefinition:
    return build_defs(project=ProjectResource(config_path=str(project.path))).get_repository_def()


class Upkeep:
    """Ticks of the sensor `upkeep` on an instance of its own; runs are asked for and never
    started.
    """

    def __init__(self, project: Project, instance: dg.DagsterInstance, *slugs: str) -> None:
        self.instance, self.tags, self.reported = instance, {}, None
        self.cursor: str | None = None
        self.project, self.repository = project, repository(project)
        self.sensor = self.repository.get_sensor_def("upkeep")
        instance.add_dynamic_partitions(DOMAINS, list(slugs))

    def tick(self) -> Asked:
        context = dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.repository,
            cursor=self.cursor,
            sensor_name="upkeep",
        )
        lines = logging.handlers.BufferingHandler(10_000)
        context.log.addHandler(lines)
        result = self.sensor.evaluate_tick(context)
        self.reported = result.skip_message
        self.log = "\n".join(record.getMessage() for record in lines.buffer)
        self.requests, self.cursor = result.run_requests, result.cursor
        asked = {
            (key.path[-1], request.partition_key): request.tags
            for request in result.run_requests
            for key in request.asset_selection
        }
        self.tags.update(asked)
        return set(asked)

    def run(
        self,
        stage: str,
        partition: str | None = None,
        error: Exception | None = None,
        *,
        by_hand: bool = False,
    ):
        """The run that was asked for last, of an asset that builds nothing: it succeeds, or raises
        an error.
        """

        @dg.asset(
            name=stage,
            partitions_def=partitions_of(STAGES[stage], METHODS, ProjectResource()),
            retry_policy=dg.RetryPolicy(max_retries=1),
        )
        def made() -> None:
            with readable_failures():
                if error is not None:
                    raise error

        tags = {} if by_hand else self._own(self.tags[stage, partition])
        dg.materialize(
            [made], instance=self.instance, partition_key=partition, tags=tags, raise_on_error=False
        )

    def plan(self, status: dg.DagsterRunStatus, **tags: str) -> None:
        """A run in this state for everything that was asked for."""

        @dg.job
        def empty() -> None:
            pass

        for asked in self.tags.values():
            self.instance.create_run_for_job(
                empty, status=status, tags={**self._own(asked), **tags}
            )

    @staticmethod
    def _own(tags: dict[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in tags.items()
            if name.startswith((HIDDEN, "domain", "method", "reason"))
        }


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
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from dagster._daemon.cli import main; main()",
                "run",
                "-w",
                "workspace.yaml",
            ],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=listen_to_signals,
        )
    try:
        yield log
    finally:
        end([daemon.pid])
        daemon.wait()


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
        if trains and any(": loss " in line for line in lines_of(instance, run)):
            return run
    return None


def lines_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """The log of a run."""
    return [entry.message for entry in instance.all_logs(run.run_id)]


def process_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    """The process that a run is carried out in."""
    found = [
        re.search(r"Started process for run \(pid: (\d+)\)", line)
        for line in lines_of(instance, run)
    ]
    return next(int(match[1]) for match in found if match)


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
