"""The sensor `upkeep`: asks for every artifact that is due, unless a run with the same inputs says
otherwise.

Belongs here: one tick, when something is asked for again, and the blocking checks before a task.
Does not belong here: what is due (`survey`), reading a run (`last_runs`). Runs are the
only memory of what was asked for: their tags hold the digests of the inputs and of the sources, and
the number of the try.
"""

import hashlib
import inspect
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

import react_pipeline
from react_pipeline import assets
from react_pipeline.assets import (
    DOMAINS,
    HIDDEN,
    REASON_TAG,
    ProjectResource,
    blocking_checks,
    declare_instigators,
    name_of,
    partition_of,
    partitions_of,
    tags_of_key,
)
from react_pipeline.extension import extensions
from react_pipeline.extensions.automation.assets.freshness import settings_of
from react_pipeline.extensions.automation.assets.last_runs import INPUTS_TAG, LastRuns, ending_of
from react_pipeline.extensions.automation.survey import State, Survey, Task, survey
from react_pipeline.lineage import parents_of
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import Method
from react_pipeline.stage import STAGES, Place, Stage
from react_pipeline.store import ReactError

CODE_TAG, TRY_TAG = f"{HIDDEN}code", f"{HIDDEN}try"
MAX_TAG_CHARS = 250
MAX_SKIP_CHARS = 2_000

MAX_REQUESTS = 100
"""Runs that a tick asks for: the daemon takes about 0.1 s to queue one. Later ticks ask for the
rest.
"""
JUDGE_SECONDS = 20.0
"""How long a tick reads runs; Dagster ends it after 60 s."""

WAIT_HOURS = (1, 2, 4, 8, 16)
"""Wait before each further try after a transient fault: together longer than an outage of a day. So
many minutes where an input had changed for a moment.
"""


@declare_instigators
def upkeep(project: ProjectResource, stages: Sequence[Stage]) -> Iterator[dg.SensorDefinition]:
    """The sensor; it runs from the start only if `automation.enabled` is set.

    It asks for nothing but these stages, whose assets Dagster has.
    """
    settings = settings_of(project)
    loaded = [row.name for row in stages]

    @dg.sensor(
        name=project.name("upkeep"),
        asset_selection=dg.AssetSelection.assets(*map(project.key, loaded)),
        minimum_interval_seconds=settings.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING
        if settings.enabled
        else dg.DefaultSensorStatus.STOPPED,
        description="Asks for every artifact that is missing or out of date and can be built now, "
        "once for the same inputs; the policy of training is `automation` in pipeline.yaml. A "
        "tick's log says what is asked for and why, and what is held back.",
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            looked = Manifests.of(project.load())
            deadline = time.monotonic() + JUDGE_SECONDS
            start = context.cursor or ""
            tick = Tick(context.instance, looked, project, loaded, MAX_REQUESTS, deadline, start)
            tick.look(sorted(context.instance.get_dynamic_partitions(project.name(DOMAINS))))
        except ReactError as error:
            return dg.SensorResult(skip_reason=str(error))
        requested = dict(islice(tick.asked.items(), MAX_REQUESTS))
        lines = [f"{stage} {key}: {why}" for (stage, key), why in tick.failed.items()]
        for task, (_, why) in requested.items():
            again = f" again, since its {why}" if why else ""
            lines.append(f"{task.stage} {task.key}: asked for{again}: {task.reason}")
        lines += [f"{slug}: left out: {reason}" for slug, reason in tick.survey.unreadable.items()]
        lines += [f"{task.stage} {task.key}: held back: {task.reason}" for task in tick.survey.held]
        for line in lines:
            context.log.info(line)
        behind = sum(state in (State.DUE, State.WAITING) for state in tick.survey.states.values())
        lines += [f"{behind} not up to date yet: runs are queued or in progress"] if behind else []
        table = looked.config.all_methods
        requests = [
            request_of(task, tick.code, tries, table, project)
            for task, (tries, _) in requested.items()
        ]
        skipped = (
            None if requests else "\n".join(lines)[:MAX_SKIP_CHARS] or "everything is up to date"
        )
        return dg.SensorResult(run_requests=requests, skip_reason=skipped, cursor=tick.cursor)

    yield look


@dataclass
class Tick:
    """One look at what is due, and at its runs; it writes nothing.

    Attributes:
        resource: How Dagster names what the project has.
        limit, deadline: When so many are asked for, or the monotonic clock is there, the rest is
            left to the next tick.
        cursor: The place that was judged last when the time was over: the next tick begins after
            it.
        failed: What is not asked for, and why.
        asked: What is asked for, by priority: the number of the try, and how it has failed before.
    """

    instance: dg.DagsterInstance
    project: Project
    resource: ProjectResource = field(default_factory=ProjectResource)
    loaded: Collection[str] = field(default_factory=lambda: STAGES)
    limit: float = math.inf
    deadline: float = math.inf
    cursor: str = ""
    code: str = field(default_factory=lambda: code_digest())
    judged: set[Place] = field(default_factory=set)
    failed: dict[Place, str] = field(default_factory=dict)
    asked: dict[Task, tuple[int, str]] = field(default_factory=dict)
    checks: dict[Place, Any] = field(default_factory=dict)
    survey: Survey = field(default_factory=Survey)
    runs: LastRuns = field(init=False)

    def look(self, slugs: Sequence[str]) -> None:
        """Judge what is due, then again without what failed, since others need not wait for it."""
        self.runs = LastRuns(self.instance, self.resource)
        before = -1
        while before != len(self.failed) and (before < 0 or time.monotonic() < self.deadline):
            before = len(self.failed)
            self.survey = survey(self.project, slugs, self.failed)
            tasks = sorted(self.survey.tasks, key=priority_of, reverse=True)
            names = [" ".join(task.place) for task in tasks]
            start = names.index(self.cursor) + 1 if self.cursor in names else 0
            self._judge([*tasks[start:], *tasks[:start]])
        if time.monotonic() < self.deadline:
            self.cursor = ""

    def _judge(self, tasks: Iterable[Task]) -> None:
        """Ask for tasks, or find out why not, until enough are asked for or the time is over."""
        idle = [
            task
            for task in tasks
            if task.place not in self.judged and not self.runs.is_awaited(task.place)
        ]
        for start in range(0, len(idle), MAX_REQUESTS):
            is_late = bool(self.judged) and time.monotonic() > self.deadline
            if is_late or len(self.asked) >= self.limit:
                return
            some = idle[start : start + MAX_REQUESTS]
            self.judged.update(task.place for task in some)
            self._ask_once(some)
            self.cursor = " ".join(some[-1].place)

    def _ask_once(self, tasks: Sequence[Task]) -> None:
        tries: dict[Task, tuple[int, str]] = {}
        for stage in dict.fromkeys(task.stage for task in tasks):
            of_stage = [task for task in tasks if task.stage == stage]
            if stage not in self.loaded:
                why = "not asked for: reload the code location, which was loaded without this asset"
                self.failed.update((task.place, why) for task in of_stage)
                continue
            for task, runs in zip(of_stage, self.runs.of(stage, of_stage), strict=True):
                number, why = self._outlook(task, *runs)
                if number:
                    tries[task] = number, why
                elif why:
                    self.failed[task.place] = f"was asked for with these inputs: its {why}"
        self.asked.update((task, tries[task]) for task in self._clear(tries))

    def _outlook(
        self, task: Task, attempt: dg.DagsterRun | None, record: dg.RunRecord | None
    ) -> tuple[int, str]:
        """Which try is asked for now and why; 0: none, and why, or "" while a run is active.

        It follows from the last run of the artifact, and the last with today's inputs.
        """
        run = record.dagster_run if record else None
        step = self.resource.name(task.stage)
        if self.runs.is_under_way(attempt) or self.runs.is_under_way(run):
            return 0, ""
        if run is None or record is None:
            if not attempt or attempt.is_success or INPUTS_TAG + step in attempt.tags:
                return 1, ""  # never asked for
            # As a person started it.
            return 1, ending_of(self.instance, attempt, step).text
        if (not attempt or attempt.is_success) and self.runs.planned(task.place) not in (
            None,
            run.run_id,
        ):
            return 1, ""  # another version was built since
        tries = int(run.tags.get(TRY_TAG, "1"))
        why, is_interrupted, is_transient, is_passing = ending_of(self.instance, run, step)
        if run.status == dg.DagsterRunStatus.CANCELED:
            return 0, f"{why}; materialize it to run it again"
        if run.tags.get(CODE_TAG, self.code) != self.code:
            return 1, f"run {run.run_id[:8]} had other code"
        if is_interrupted:
            return tries, why
        if not is_transient:
            return (
                0,
                f"{why}. It will keep failing until something changes; or materialize it by hand",
            )
        if tries > len(WAIT_HOURS):
            return 0, f"{why}; tried {tries} times. Fix the cause, then materialize it by hand"
        ended = record.end_time or record.update_timestamp.timestamp()
        wait = (60 if is_passing else 3600) * WAIT_HOURS[tries - 1]
        # Both ways: the clock of the host that ran it may be years ahead.
        if abs(time.time() - ended) >= wait:
            return tries + 1, why
        when = f"{datetime.fromtimestamp(ended + wait, UTC):%Y-%m-%d %H:%M} UTC"
        return 0, f"{why}; retried after {when}, try {tries + 1} of {len(WAIT_HOURS) + 1}"

    def _clear(self, tasks: Collection[Task]) -> list[Task]:
        """The tasks of which the blocking checks of all that they are made from passed.

        What has one that was planned and never evaluated is asked for again: it is reused, and its
        checks evaluated.
        """
        clear, repeated = [], {}
        parents = {task: parents_of(self.project, *task.place).values() for task in tasks}
        self._read_checks({place for places in parents.values() for place in places})
        for task, places in parents.items():
            place = next((place for place in places if self.checks[place]), None)
            if place is None:
                clear.append(task)
                continue
            check = self.checks[place]
            what = f"{check.check_key.name} of {place[0]}"
            if check.latest_execution_status.value == "FAILED":
                self.failed[task.place] = f"not asked for: {what} has failed"
                continue
            run = self.instance.get_run_by_id(check.latest_planned_run_id)
            if not self.runs.is_under_way(run):
                step = self.resource.name(place[0])
                why = f": {ending_of(self.instance, run, step).text}" if run else ""
                fingerprint = self.project.store.current(*place).fingerprint
                repeated[task] = Task(*place, f"{what} was not evaluated{why}", fingerprint)
        if repeated:
            self._judge(dict.fromkeys(repeated.values()))
        for task, parent in repeated.items():
            if parent.place in self.failed:
                self.failed[task.place] = f"not asked for: {parent.reason}"
        return clear

    def _read_checks(self, places: Collection[Place]) -> None:
        """Of each place a blocking check that has failed or was not evaluated yet, or None."""
        new = {place for place in places if place not in self.checks}
        self.checks.update(dict.fromkeys(new))
        for stage in {stage for stage, _ in new}:
            keys = blocking_checks(stage, self.resource)
            partitions = {name_of(key): key for name, key in new if name == stage}
            names = None if None in partitions else [str(name) for name in partitions]
            read = self.instance.event_log_storage.get_asset_check_partition_info
            for check in read(keys, None, names) if keys else ():
                status = check.latest_execution_status.value
                if status == "PLANNED" or (status == "FAILED" and check.is_current):
                    self.checks[stage, partitions[check.partition_key]] = check


def priority_of(task: Task) -> int:
    """What many wait for comes first, and small trainings before large ones."""
    return STAGES[task.stage].priority - (len(str(task.images)) if task.images else 0)


def request_of(
    task: Task, code: str, tries: int, table: Mapping[str, Method], project: ProjectResource
) -> dg.RunRequest:
    """A run that builds one artifact; its tags say why, and are what later ticks know of it."""
    partition = partition_of(task.key)
    # Of a method that was added to pipeline.yaml after the code location was loaded, too.
    definition = partitions_of(STAGES[task.stage], table, project)
    tags = {
        **tags_of_key(task.key),
        REASON_TAG: f"{task.stage}: {task.reason}"[:MAX_TAG_CHARS],
        INPUTS_TAG + project.name(task.stage): task.inputs,
        CODE_TAG: code,
        TRY_TAG: str(tries),
        "dagster/priority": str(priority_of(task)),
        **(definition.get_tags_for_partition_key(partition) if partition and definition else {}),
    }
    tags = {name: tag for name, tag in tags.items() if tag}
    return dg.RunRequest(
        partition_key=partition, tags=tags, asset_selection=[project.key(task.stage)]
    )


def code_digest() -> str:
    """Digest of the sources that a run would load now: a run that failed may succeed with other
    code.
    """
    files = {
        path
        for package in (react_pipeline, assets)
        for path in Path(package.__path__[0]).rglob("*.py")
    }
    files |= {Path(inspect.getfile(type(extension))) for extension in extensions().values()}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]
