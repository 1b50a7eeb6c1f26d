"""The last runs of what is due: which are under way, and how the others ended.

Does not belong here: what is due (`survey`), asking for it (`upkeep_sensor`), keeping runs of the
command line alive (`react_pipeline.assets.runs`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import dagster as dg

from react_pipeline.assets import HIDDEN, INTERRUPTED, ProjectResource, name_of, reason_of
from react_pipeline.extensions.automation.survey import Task
from react_pipeline.project import SETTINGS_FILE, Project, locate_home
from react_pipeline.stage import ALL, Place
from react_pipeline.store import ChangedSource, MissingArtifact, StaleArtifact

INPUTS_TAG = f"{HIDDEN}inputs."
"""Followed by the step of a stage, the tag with the digest of all inputs of its artifact."""

WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's own tag of a failed run that its daemon is about to start again."""

OUT_OF_RETRIES = "RetryRequestedFromPolicy"
"""Dagster's name of the error of a step whose retries are exhausted; only transient faults are
retried.
"""

PASSING = {one.__name__ for one in (MissingArtifact, StaleArtifact, ChangedSource)}
"""Errors of what a step is made from, which was right when it was asked for and may be so again."""

MAX_REASON_CHARS = 200
_STORAGE = re.compile(r"^(run_)?storage:", re.MULTILINE)
_STATUS = dg.DagsterRunStatus
_UNFINISHED = list({*_STATUS} - {_STATUS.SUCCESS, _STATUS.FAILURE, _STATUS.CANCELED})


def is_under_way(run: dg.DagsterRun) -> bool:
    """Whether a run may still succeed: it is active, or its process was killed and Dagster starts
    it again.
    """
    return not run.is_finished or (
        run.status == _STATUS.FAILURE and run.tags.get(WILL_RETRY_TAG) == "true"
    )


class LastRuns:
    """The last run of each artifact of a project, as the runs were when this was made.

    Whoever looks at files afterwards takes a run that has ended meanwhile for one in progress, not
    for one that built nothing.
    """

    def __init__(self, instance: dg.DagsterInstance, project: ProjectResource) -> None:
        """Read which runs are queued or in progress: thousands, so by their ids."""
        self._instance = instance
        self._project = project
        self._unfinished = set(instance.get_run_ids(dg.RunsFilter(statuses=_UNFINISHED)))
        self._attempts: dict[str, Mapping[str, tuple[str, int]]] = {}

    def is_under_way(self, run: dg.DagsterRun | None) -> bool:
        """Whether a run may succeed, or may have since."""
        return run is not None and (is_under_way(run) or run.run_id in self._unfinished)

    def is_awaited(self, place: Place) -> bool:
        """Whether the last run that was to build an artifact is queued or in progress."""
        return self.attempt(place) in self._unfinished

    def attempt(self, place: Place) -> str | None:
        """The run that was to build a partition and has not, no matter who started it; of what has
        no partitions the last. One query a stage.
        """
        stage, key = place
        if key == ALL:
            return self.planned(place)
        if stage not in self._attempts:
            storage = self._instance.event_log_storage
            attempts = (
                storage.get_latest_asset_partition_materialization_attempts_without_materializations
            )
            self._attempts[stage] = attempts(self._project.key(stage))
        return self._attempts[stage].get(str(name_of(key)), (None,))[0]

    def planned(self, place: Place) -> str | None:
        """The last run that was to build an artifact."""
        plan = self._instance.event_log_storage.get_latest_planned_materialization_info(
            self._project.key(place[0]), name_of(place[1])
        )
        return plan.run_id if plan else None

    def of(
        self, stage: str, tasks: Sequence[Task]
    ) -> list[tuple[dg.DagsterRun | None, dg.RunRecord | None]]:
        """The `attempt` of each task of a stage, and the last run with its inputs."""
        tag = INPUTS_TAG + self._project.name(stage)
        inputs = dg.RunsFilter(tags={tag: [task.inputs for task in tasks]})
        records: dict[str, dg.RunRecord] = {}
        for record in self._instance.get_run_records(inputs):  # the newest first
            records.setdefault(record.dagster_run.tags[tag], record)
        ids = [self.attempt(task.place) for task in tasks]
        some = list(filter(None, ids))
        attempts = self._instance.get_runs(dg.RunsFilter(run_ids=some)) if some else []
        runs = {run.run_id: run for run in attempts}
        return [
            (runs.get(run_id or ""), records.get(task.inputs))
            for run_id, task in zip(ids, tasks, strict=True)
        ]


class Ending(NamedTuple):
    """How a run ended, as the end of a sentence; whether it was interrupted, whether a retry may
    help, and whether one may do so within minutes.
    """

    text: str
    is_interrupted: bool = False
    is_transient: bool = True
    is_passing: bool = False


def ending_of(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str) -> Ending:
    """How a run ended: by this step, else by any other, else by none, as when its process was
    killed.

    Only an error of the step itself may last. A check that raises one neither passed nor failed, so
    it is tried again.
    """
    name = f"run {run.run_id[:8]}"
    if run.status != _STATUS.FAILURE:
        return Ending(
            f"{name} "
            + ("was cancelled" if run.is_failure_or_canceled else "built nothing that is fresh")
        )
    if (run.run_id, step) not in _endings:
        if len(_endings) >= MAX_ENDINGS:
            del _endings[next(iter(_endings))]  # the oldest
        _endings[run.run_id, step] = _ending_of_failure(instance, run, step, name)
    return _endings[run.run_id, step]


_endings: dict[tuple[str, str], Ending] = {}
"""Of failed runs and their steps: each log is read once in a process."""
MAX_ENDINGS = 10_000


def _ending_of_failure(
    instance: dg.DagsterInstance, run: dg.DagsterRun, step: str, name: str
) -> Ending:
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = [entry.get_dagster_event() for entry in entries]
    failed = next(
        (event for event in events if event.step_key == step), events[-1] if events else None
    )
    if failed is None:
        # A launch that found no code server has such an event, a killed process has none.
        entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        errors = [entry.get_dagster_event().engine_event_data.error for entry in entries]
        texts = [" ".join(error.message.split()) for error in errors if error]
        reason = texts[-1] if texts else "it ended before its work was done"
        return Ending(f"{name} failed: {reason[:MAX_REASON_CHARS].rstrip('.')}")
    reason = reason_of(failed)
    error = failed.step_failure_data.error
    is_passing = bool(error and error.cause and error.cause.cls_name in PASSING)
    is_transient = failed.step_key != step or (
        error is not None and (is_passing or error.cls_name == OUT_OF_RETRIES)
    )
    return Ending(
        f"{name} failed: {reason[:MAX_REASON_CHARS].rstrip('.')}",
        reason == INTERRUPTED,
        is_transient,
        is_passing,
    )


def last_ticks(instance: dg.DagsterInstance) -> Iterator[tuple[str, Any]]:
    """The last tick of each sensor and schedule that has one, by its name."""
    for state in instance.all_instigator_state():
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1):
            yield state.instigator_name, tick


def instance_with_runs(project: Project) -> dg.DagsterInstance | None:
    """The Dagster instance as `launch.open_instance` finds it, if there is one yet; nothing is
    made.
    """
    home = locate_home(project.path.parent)
    settings = home / SETTINGS_FILE
    # Without a storage of its own, Dagster keeps its databases in the home. Dagster's Helm chart
    # names one for runs, one for events and one for ticks.
    elsewhere = settings.is_file() and _STORAGE.search(settings.read_text(encoding="utf-8"))
    return (
        dg.DagsterInstance.from_config(str(home))
        if elsewhere or (home / "history").is_dir()
        else None
    )
