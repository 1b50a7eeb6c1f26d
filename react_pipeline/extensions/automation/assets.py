"""The sensor `upkeep`, which asks for what the store says is due, once for the same inputs, and
again after growing waits; and the schedule `recustomize`, which looks outside the store.

Belongs here: one tick, and when something is asked for again. Does not belong here: what is due
(`survey`). The runs themselves are the memory: a deleted one was never asked for.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg

from react_pipeline.assets import (
    DOMAINS,
    REASON_TAG,
    TRY_TAG,
    WILL_RETRY_TAG,
    ProjectResource,
    built_places,
    declare_instigators,
    inputs_tag,
    make_partitions,
    run_of_last,
    tags_of_key,
    to_partition_key,
)
from react_pipeline.extensions.automation.extension import AutomationConfig
from react_pipeline.extensions.automation.survey import Survey, Task, survey
from react_pipeline.failures import Failure, Kind
from react_pipeline.project import Manifests
from react_pipeline.settings import Method, load_domains
from react_pipeline.stage import ALL, STAGES, Stage
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


def automation_settings(project: ProjectResource) -> AutomationConfig:
    """Return the settings of a project; where its configuration is wrong, nothing is automatic."""
    try:
        return project.load().config.section(AutomationConfig)
    except ReactError:
        return AutomationConfig(schedule=None)


@declare_instigators
def upkeep(project: ProjectResource, stages: Sequence[Stage]) -> Iterator[dg.SensorDefinition]:
    """The sensor; it runs from the start only if `automation.enabled` is set.

    It asks for nothing but these stages, whose assets Dagster has.
    """
    settings = automation_settings(project)
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
            runs = Runs(context.instance, project, loaded)
            looked = Manifests.of(project.load())
            slugs = sorted(context.instance.get_dynamic_partitions(project.name(DOMAINS)))
            found = survey(looked, slugs, runs.wait)
        except ReactError as error:
            return dg.SensorResult(skip_reason=str(error))
        methods = looked.config.all_methods
        requests = [make_request(task, runs.tries[task], methods, project) for task in found.tasks]
        lines = _lines(found)
        for line in lines:
            context.log.info(line)
        if requests:
            return dg.SensorResult(run_requests=requests)
        text = "\n".join(lines)[:MAX_SKIP_CHARS]
        return dg.SensorResult(skip_reason=text or "everything is up to date or under way")

    yield look


def _lines(found: Survey) -> list[str]:
    """What a tick's log says, one line for each place."""
    lines = [f"{task.stage} {task.key}: {why}" for task, why in found.waiting.items() if why]
    for task in found.tasks:
        failure = found.failed.get(task)
        again = f" again, since it failed: {failure.text}" if failure else ""
        lines.append(f"{task.stage} {task.key}: asked for{again}: {task.reason}")
    lines += [f"{slug}: left out: {reason}" for slug, reason in found.unreadable.items()]
    return lines + [f"{task.stage} {task.key}: held back: {task.reason}" for task in found.held]


class Runs:
    """The runs of a project that are under way, and what became of those that were asked for.

    Attributes:
        tries: What is asked for now, and which try it is; one that was interrupted counts for none.
    """

    def __init__(
        self, instance: dg.DagsterInstance, project: ProjectResource, loaded: Collection[str]
    ) -> None:
        """`loaded`: the stages whose assets Dagster has."""
        self.tries: dict[Task, int] = {}
        self._instance, self._project, self._loaded = instance, project, loaded
        unfinished = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
        self._under_way = {
            place for run in unfinished for place in built_places(instance, project, run)
        }

    def wait(self, task: Task, failure: Failure | None) -> str | None:
        """Return why a task is not asked for now; "" while it is under way or for the next tick,
        None if it is asked for.
        """
        if task.stage not in self._loaded:
            return "not asked for: reload the code location, which has no such asset yet"
        if task.place in self._under_way or len(self.tries) == MAX_REQUESTS:
            return ""
        record = self._last(task)
        if record and record.dagster_run.tags.get(WILL_RETRY_TAG) == "true":
            return ""
        if failure and failure.kind is Kind.LASTING:
            return (
                f"failed: {failure.text.rstrip('.')}. It will keep failing until something "
                "changes; or materialize it by hand"
            )
        tries = 0
        if record:
            run = record.dagster_run
            tries = 0 if run.status == _STATUS.SUCCESS else int(run.tags.get(TRY_TAG, 1))
            if why := _wait_after(record, tries, failure):
                return why
        counts = failure is None or failure.kind is not Kind.INTERRUPTED
        self.tries[task] = max(tries + counts, 1)
        return None

    def _last(self, task: Task) -> dg.RunRecord | None:
        """Return the newest run that was asked for with the inputs of a task; None if there is
        none, or another run has made the artifact since, so that it is due again.
        """
        of_inputs = dg.RunsFilter(tags={inputs_tag(self._project): task.inputs})
        place = self._project.key(task.stage), to_partition_key(task.key)
        for record in self._instance.get_run_records(of_inputs, limit=1):
            made_by = run_of_last(self._instance, *place, after=_ended(record))
            if made_by in ("", record.dagster_run.run_id):
                return record
        return None


def _ended(record: dg.RunRecord) -> float:
    return record.end_time or record.update_timestamp.timestamp()


def _wait_after(record: dg.RunRecord, tries: int, failure: Failure | None) -> str:
    """Why the work of a run that ended is not asked for again yet; "" if it is."""
    run, ended = record.dagster_run, _ended(record)
    if run.status == _STATUS.CANCELED:
        return f"run {run.run_id[:8]} was cancelled; materialize it to run it again"
    text = f"failed: {failure.text}" if failure else f"run {run.run_id[:8]} left it due"
    if tries > len(WAIT_HOURS):
        return f"{text}; tried {tries} times. Fix the cause, then materialize it by hand"
    # What was built may be gone since, but a result that is never up to date must not loop.
    kind = failure.kind if failure else Kind.TRANSIENT if tries else Kind.PASSING
    wait = SECONDS[kind] * WAIT_HOURS[max(tries - 1, 0)]
    if time.time() >= ended + wait:
        return ""
    at = f"{datetime.fromtimestamp(ended + wait, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{text}; retried after {at}, try {tries + 1} of {len(WAIT_HOURS) + 1}"


def make_request(
    task: Task, tries: int, table: Mapping[str, Method], project: ProjectResource
) -> dg.RunRequest:
    """A run that builds one artifact; its tags say why, and with which inputs."""
    partition = to_partition_key(task.key)
    # Of a method that was added to pipeline.yaml after the code location was loaded, too.
    definition = make_partitions(STAGES[task.stage], table, project)
    tags = {
        **tags_of_key(task.key),
        REASON_TAG: f"{task.stage}: {task.reason}"[:MAX_TAG_CHARS],
        inputs_tag(project): task.inputs,
        TRY_TAG: str(tries),
        "dagster/priority": str(STAGES[task.stage].priority),
        **(definition.get_tags_for_partition_key(partition) if partition and definition else {}),
    }
    return dg.RunRequest(
        partition_key=partition, tags=tags, asset_selection=[project.key(task.stage)]
    )


@declare_instigators
def recustomize(
    project: ProjectResource, stages: Sequence[Stage]
) -> Iterator[dg.ScheduleDefinition]:
    """The schedule of those stages that read files outside the store; none if the configuration has
    none.
    """
    settings = automation_settings(project)
    if settings.schedule is None:
        return
    looking = [row for row in stages if row.scope in ("all", "domain") and row.outside]

    @dg.schedule(
        name=project.name("recustomize"),
        cron_schedule=settings.schedule,
        execution_timezone=str(settings.timezone),
        target=dg.AssetSelection.assets(*(project.key(row.name) for row in looking)),
        default_status=dg.DefaultScheduleStatus.RUNNING
        if settings.enabled
        else dg.DefaultScheduleStatus.STOPPED,
        description="Lists the corpus, the base checkpoint and the labelled images. What follows "
        "from a change is asked for by the sensor `upkeep`.",
    )
    def look_outside(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        pipeline = project.load()
        domains, _problems = load_domains(pipeline.config.domains)
        registered = context.instance.get_dynamic_partitions(project.name(DOMAINS))
        slugs = list(filter(domains.__contains__, registered))
        for row in looking:
            for key in [ALL] if row.scope == "all" else slugs:
                # A kind of corpus may name no file, and looks by itself.
                if row.scope == "all" or (row.outside and row.outside(pipeline, key).seen):
                    yield dg.RunRequest(
                        # A repeated tick requests nothing twice.
                        f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M} {row.name} {key}",
                        asset_selection=[project.key(row.name)],
                        partition_key=to_partition_key(key),
                        tags={
                            **tags_of_key(key),
                            REASON_TAG: "schedule",
                            "dagster/priority": str(row.priority),
                        },
                    )

    yield look_outside
