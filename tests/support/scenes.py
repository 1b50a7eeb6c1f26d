"""Scenes of what is due: ticks of the sensors on an instance of their own, and the runs that they
ask for, whose steps are made up.
"""

from __future__ import annotations

import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest
from dagster._core.storage.runs.schema import RunsTable

from react_pipeline.assets import declared, reporting
from react_pipeline.assets.partitions import to_partition_key
from react_pipeline.project import Project
from react_pipeline.stage import ALL, Place
from react_pipeline.store import Artifact
from support import upkeep
from support.launch import repository, tick

UNJUDGED = ("promotion", "overview")
"""Made-up artifacts are no verdicts, so these are never up to date."""


class Scene:
    """A project, and the daemon that keeps it up.

    Attributes:
        images: What every set of pairs holds; none: its check fails.
        faults: What the step of a place raises.
        check_fault: What the check of retrieved sets raises.
        log: What the last tick of `upkeep` logged.
    """

    def __init__(self, project: Project, instance: dg.DagsterInstance) -> None:
        """Load the definitions as they are now."""
        self.project, self.instance = project, instance
        self.images: tuple[str, ...] = ("a", "b")
        self.faults: dict[Place, BaseException] = {}
        self.check_fault: Exception | None = None
        self.log = ""
        self._repository = repository(project)
        self._job = self._repository.get_implicit_global_asset_job_def()

    @classmethod
    @contextmanager
    def of(cls, project: Project, patch: pytest.MonkeyPatch) -> Iterator[Scene]:
        """Make steps up, keep one check, and let nothing wait for the clock."""
        patch.setattr(declared, "RETRIES", dg.RetryPolicy(max_retries=0))
        name = ("retrieved_set", "classes_have_pairs")
        body, options = declared._checks[name]

        def checked(*arguments: object) -> dg.AssetCheckResult:
            if scene.check_fault:
                raise scene.check_fault
            return body(*arguments)

        patch.setattr(declared, "_checks", {name: (checked, options)})
        patch.setattr(reporting, "_logged", lambda *_: {})

        def made(project: Project, stage: str, key: str, _step: object) -> Artifact:
            if fault := scene.faults.get((stage, key)):
                raise fault
            return upkeep.build(project, stage, key, scene.images)

        patch.setattr(reporting, "run", made)
        with dg.DagsterInstance.ephemeral() as instance:
            scene = cls(project, instance)
            yield scene

    def wait(self, hours: float) -> None:
        """Let all runs have ended so much earlier."""
        ended = RunsTable.c.end_time
        with self.instance.run_storage.connect() as database:
            database.execute(RunsTable.update().values({ended: ended - 3600 * hours}))

    def play(self, most: int = 20) -> list[str]:
        """Tick, and run what is asked for, until nothing is; gives the places in order."""
        made: list[str] = []
        for _ in range(most):
            requests = self.ask()
            if not requests:
                break
            for request in requests:
                (key,) = request.asset_selection or ()
                place = f"{key.path[-1]} {(request.partition_key or '').replace('|', '/')}"
                result = self._job.execute_in_process(
                    instance=self.instance,
                    asset_selection=[key],
                    partition_key=request.partition_key,
                    tags=dict(request.tags),
                    raise_on_error=False,
                )
                made.append(("" if result.success else "FAILED ") + place.strip())
        else:
            assert most < 20, f"it does not end: {made}"
        return made

    def ask(self) -> list[dg.RunRequest]:
        """One tick of each sensor: what is asked for, in the order of places."""
        tick(self.instance, self._repository, "domain_files")
        lines = logging.handlers.BufferingHandler(10_000)
        asked = tick(self.instance, self._repository, "upkeep", lines).run_requests or ()
        self.log = "\n".join(record.getMessage() for record in lines.buffer)
        requests = [
            request
            for request in asked
            for key in request.asset_selection or ()
            if key.path[-1] not in UNJUDGED
        ]
        return sorted(requests, key=lambda one: (str(one.asset_selection), one.partition_key or ""))

    def queue(self, request: dg.RunRequest, **tags: str) -> dg.DagsterRun:
        """A run of what was asked for, as its process has begun it."""
        (key,) = request.asset_selection or ()
        partition = {"dagster/partition": request.partition_key} if request.partition_key else {}
        return self.instance.create_run_for_job(
            self._job.get_subset(asset_selection={key}),
            status=dg.DagsterRunStatus.STARTED,
            tags={**request.tags, **partition, **tags},
            asset_selection=frozenset([key]),
        )

    def start(self, stage: str) -> dg.DagsterRun:
        """A run that a person started."""
        return self.queue(dg.RunRequest(asset_selection=[dg.AssetKey(stage)]))

    def end(self, run: dg.DagsterRun) -> None:
        """Its process is killed."""
        self.instance.report_run_failed(run)

    def cancel(self, run: dg.DagsterRun) -> None:
        """A person cancels it."""
        self.instance.report_run_canceled(run)

    def run_by_hand(self, stage: str, key: str = ALL) -> None:
        """A person materializes one place."""
        done = self._job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(stage)],
            partition_key=to_partition_key(key),
        )
        assert done.success
