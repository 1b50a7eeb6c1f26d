"""The sensor `upkeep`: asks for what the store says is due, once for the same inputs, and again
after growing waits.

Belongs here: one tick, and when something is asked for again. Does not belong here: what is due
(`survey`). The sensor's cursor is its memory; resetting it in the UI forgets all tries.
"""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from react_pipeline.assets import (
    DOMAINS,
    REASON_TAG,
    TRY_TAG,
    WILL_RETRY_TAG,
    ProjectResource,
    declare_instigators,
    inputs_tag,
    partition_of,
    partitions_of,
    places_of,
    tags_of_key,
)
from react_pipeline.extensions.automation.assets.schedule import settings_of
from react_pipeline.extensions.automation.survey import State, Survey, Task, survey
from react_pipeline.failures import Failure, Kind
from react_pipeline.project import Manifests
from react_pipeline.settings import Method
from react_pipeline.stage import STAGES, Place, Stage
from react_pipeline.store import ReactError

MAX_TAG_CHARS, MAX_SKIP_CHARS = 250, 2_000

MAX_REQUESTS = 100
"""Runs that a tick asks for: the daemon takes about 0.1 s to queue one. Later ticks ask for the
rest.
"""
MAX_UNFINISHED = 1_000
"""With so many runs queued nothing is asked for: a tick reads them all."""

WAIT_HOURS = (1, 2, 4, 8, 16)
"""Wait before each further try after a transient fault: together longer than an outage of a day. So
many minutes where an input had changed for a moment.
"""
SECONDS = {Kind.TRANSIENT: 3600, Kind.PASSING: 60, Kind.INTERRUPTED: 0}

_STATUS = dg.DagsterRunStatus
_UNFINISHED = list({*_STATUS} - {_STATUS.SUCCESS, _STATUS.FAILURE, _STATUS.CANCELED})


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
        unfinished = dg.RunsFilter(statuses=_UNFINISHED)
        if (count := context.instance.get_runs_count(unfinished)) > MAX_UNFINISHED:
            return dg.SensorResult(skip_reason=f"{count} runs are queued or in progress")
        try:
            # Runs are read before files: what has ended since counts as in progress.
            memory = Memory(context.instance, project, json.loads(context.cursor or "{}"))
            looked = Manifests.of(project.load())
            slugs = sorted(context.instance.get_dynamic_partitions(project.name(DOMAINS)))
            found, waiting = memory.compare(looked, slugs, loaded)
        except ReactError as error:
            return dg.SensorResult(skip_reason=str(error))
        due = [task for task in [*found.tasks, *found.failed] if task not in waiting]
        asked = sorted(due, key=priority_of, reverse=True)[:MAX_REQUESTS]
        requests = [
            request_of(task, memory.ask(task, found), looked.config.all_methods, project)
            for task in asked
        ]
        lines = _lines(found, waiting, asked)
        for line in lines:
            context.log.info(line)
        behind = sum(state in (State.DUE, State.WAITING) for state in found.states.values())
        lines += [f"{behind} not up to date yet: runs are queued or in progress"] if behind else []
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None
            if requests
            else "\n".join(lines)[:MAX_SKIP_CHARS] or "everything is up to date",
            cursor=memory.cursor(found, waiting),
        )

    yield look


def _lines(found: Survey, waiting: Mapping[Task, str], asked: Sequence[Task]) -> list[str]:
    """What a tick's log says, one line for each place."""
    lines = [f"{task.stage} {task.key}: {why}" for task, why in waiting.items() if why]
    for task in asked:
        again = (
            f" again, since it failed: {found.failed[task].text}" if task in found.failed else ""
        )
        lines.append(f"{task.stage} {task.key}: asked for{again}: {task.reason}")
    lines += [f"{slug}: left out: {reason}" for slug, reason in found.unreadable.items()]
    return lines + [f"{task.stage} {task.key}: held back: {task.reason}" for task in found.held]


class Memory:
    """What was asked for, with which inputs and how often, and what became of it."""

    def __init__(
        self, instance: dg.DagsterInstance, project: ProjectResource, asked: dict[str, list[Any]]
    ) -> None:
        """Read the runs that are under way, and those that ended.

        Args:
            asked: By place its inputs, the number of tries, and when it was last under way.
        """
        self._asked, self._now = asked, time.time()
        unfinished = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
        self._under_way = {
            _name(place) for run in unfinished for place in places_of(instance, project, run)
        }
        inputs = [row[0] for place, row in asked.items() if place not in self._under_way]
        tag = inputs_tag(project)
        self._runs: dict[str, dg.DagsterRun] = {}
        for run in instance.get_runs(dg.RunsFilter(tags={tag: inputs})) if inputs else ():
            self._runs.setdefault(run.tags[tag], run)  # the newest comes first
        for place in self._under_way & asked.keys():
            asked[place][2] = self._now

    def compare(
        self, project: Manifests, slugs: Sequence[str], loaded: Collection[str]
    ) -> tuple[Survey, dict[Task, str]]:
        """Return what is due, and which of it is not asked for now, with the reason; "" while it is
        under way.

        What waits for a person or an hour keeps no comparison of others waiting.
        """
        stuck: dict[Task, str] = {}
        while True:
            found = survey(project, slugs, {task.place for task in stuck})
            waiting = dict(stuck)
            for task in [*found.tasks, *found.failed]:
                why = self._waits(task, found.failed.get(task))
                if task.stage not in loaded:
                    why = "not asked for: reload the code location, which has no such asset yet"
                if why is not None:
                    waiting[task] = why
            new = {task: why for task, why in waiting.items() if why and task in found.tasks}
            if not new:
                return found, waiting
            stuck |= new

    def _waits(self, task: Task, failure: Failure | None) -> str | None:
        """Why a task is not asked for now; "" while it is under way, None if it is asked for."""
        inputs, tries, when = self._asked.get(_name(task.place), ("", 0, 0.0))
        run = self._runs.get(inputs)
        if _name(task.place) in self._under_way or (run and _is_started_again(run)):
            return ""
        if failure and failure.kind is Kind.LASTING:
            return (
                f"failed: {failure.text.rstrip('.')}. It will keep failing until something "
                "changes; or materialize it by hand"
            )
        if run is None or inputs != task.inputs:
            return None  # never asked for, or forgotten
        if run.status == _STATUS.CANCELED:
            return f"run {run.run_id[:8]} was cancelled; materialize it to run it again"
        text = f"failed: {failure.text}" if failure else f"run {run.run_id[:8]} built nothing"
        if tries > len(WAIT_HOURS):
            return f"{text}; tried {tries} times. Fix the cause, then materialize it by hand"
        wait = SECONDS[failure.kind if failure else Kind.TRANSIENT] * WAIT_HOURS[tries - 1]
        if abs(self._now - when) >= wait:  # both ways: the clock may have been set back by years
            return None
        at = f"{datetime.fromtimestamp(when + wait, UTC):%Y-%m-%d %H:%M} UTC"
        return f"{text}; retried after {at}, try {tries + 1} of {len(WAIT_HOURS) + 1}"

    def ask(self, task: Task, found: Survey) -> int:
        """Remember that a task is asked for; returns which try it is. One that was interrupted
        counts for none.
        """
        inputs, tries, _ = self._asked.get(_name(task.place), ("", 0, 0.0))
        failure = found.failed.get(task)
        counts = failure is None or failure.kind is not Kind.INTERRUPTED
        number = max(tries + counts, 1) if inputs == task.inputs else 1
        self._asked[_name(task.place)] = [task.inputs, number, self._now]
        return number

    def cursor(self, found: Survey, waiting: Collection[Task]) -> str:
        """What the next tick must know: places that are up to date are forgotten."""
        kept = {_name(task.place) for task in [*found.tasks, *found.failed, *waiting]}
        kept |= {_name(place) for place, state in found.states.items() if state is not State.FRESH}
        return json.dumps({name: row for name, row in self._asked.items() if name in kept})


def _is_started_again(run: dg.DagsterRun) -> bool:
    return run.status == _STATUS.FAILURE and run.tags.get(WILL_RETRY_TAG) == "true"


def _name(place: Place) -> str:
    return " ".join(place)


def priority_of(task: Task) -> int:
    """What many wait for comes first, and small trainings before large ones."""
    return STAGES[task.stage].priority - (len(str(task.images)) if task.images else 0)


def request_of(
    task: Task, tries: int, table: Mapping[str, Method], project: ProjectResource
) -> dg.RunRequest:
    """A run that builds one artifact; its tags say why, and with which inputs."""
    partition = partition_of(task.key)
    # Of a method that was added to pipeline.yaml after the code location was loaded, too.
    definition = partitions_of(STAGES[task.stage], table, project)
    tags = {
        **tags_of_key(task.key),
        REASON_TAG: f"{task.stage}: {task.reason}"[:MAX_TAG_CHARS],
        inputs_tag(project): task.inputs,
        TRY_TAG: str(tries),
        "dagster/priority": str(priority_of(task)),
        **(definition.get_tags_for_partition_key(partition) if partition and definition else {}),
    }
    return dg.RunRequest(
        partition_key=partition, tags=tags, asset_selection=[project.key(task.stage)]
    )
