"""Runs: which are under way, how the others ended, and closing those of launches that were killed.

Belongs here: reading runs, and keeping those of the command line alive. Does not belong here: what
is due (`react_pipeline.upkeep`), asking for it (`upkeep_sensor`), running anything (`launch`). A
launch holds a lock file in the Dagster home, which the kernel frees however the process ends. Seen
from another machine, where that lock may not count, it is alive while its heartbeat is recent.
"""

import platform
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from react_pipeline.assets.partitions import name_of
from react_pipeline.assets.reporting import INTERRUPTED
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.project import SETTINGS_FILE, Project, locate_home
from react_pipeline.stage import ALL
from react_pipeline.store import lock, locked
from react_pipeline.upkeep import Place, Task

DOMAIN_TAG, METHOD_TAG, REASON_TAG = "domain", "method", "reason"
"""What people filter runs by, and why automation asked for one."""
USER_TAG, COMMAND_LINE = "user", "command line"
"""Dagster's own tag for its column *Launched by*, and its value for runs of the command line."""

HIDDEN = ".dagster/react-"
"""Prefix of tags for programs: Dagster's pages hide tags of `.dagster/`, and queries find them."""
INPUTS_TAG = f"{HIDDEN}inputs."
"""Followed by the step of a stage, the tag with the digest of all inputs of its artifact."""

WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's own tag of a failed run that its daemon is about to start again."""

LAUNCH_TAG, HEARTBEAT_TAG = f"{HIDDEN}launch", f"{HIDDEN}heartbeat"
HEARTBEAT_SECONDS = 30.0
EXPIRY_SECONDS = 600.0
"""A launch of another machine that shows the same heartbeat for so long is dead."""
MAX_PAUSE_SECONDS = 300.0

OUT_OF_RETRIES = "RetryRequestedFromPolicy"
"""Dagster's name of the error of a step whose retries are exhausted; only transient faults are
retried.
"""

MAX_REASON_CHARS = 200
_OUR_ERROR = re.compile(r"^react_pipeline\.[\w.]+: ")
_STATUS = dg.DagsterRunStatus
_STARTED = [_STATUS.STARTED, _STATUS.STARTING, _STATUS.CANCELING]
_UNFINISHED = [*_STARTED, _STATUS.QUEUED, _STATUS.NOT_STARTED, _STATUS.MANAGED, _STATUS.SUSPENDED]


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
    """How a run ended, as the end of a sentence; whether it was interrupted, and whether a retry
    may help.
    """

    text: str
    is_interrupted: bool = False
    is_transient: bool = True


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
        return Ending(f"{name} failed: it ended before its work was done")
    reason = reason_of(failed)
    error = failed.step_failure_data.error
    is_transient = failed.step_key != step or (
        error is not None and error.cls_name == OUT_OF_RETRIES
    )
    return Ending(
        f"{name} failed: {reason[:MAX_REASON_CHARS].rstrip('.')}",
        reason == INTERRUPTED,
        is_transient,
    )


def reason_of(event: dg.DagsterEvent) -> str:
    """The text of a step's failure, or of why it is tried again, without traceback and class of the
    error.
    """
    data = event.step_retry_data if event.is_step_up_for_retry else event.step_failure_data
    user_data = getattr(data, "user_failure_data", None)
    description = user_data.description if user_data else None
    error = data.error.cause or data.error if data.error else None
    text = " ".join((description or (error.message if error else "") or "see its log").split())
    return _OUR_ERROR.sub("", text)


def planned_assets(instance: dg.DagsterInstance, run_id: str) -> set[dg.AssetKey | None]:
    """The assets that a run was to make."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    return {entry.get_dagster_event().asset_key for entry in entries}


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
    # Without a storage of its own, Dagster keeps its databases in the home.
    elsewhere = settings.is_file() and "\nstorage:" in f"\n{settings.read_text(encoding='utf-8')}"
    return (
        dg.DagsterInstance.from_config(str(home))
        if elsewhere or (home / "history").is_dir()
        else None
    )


@contextmanager
def registered(instance: dg.DagsterInstance) -> Iterator[str]:
    """Close what killed launches left, and keep the runs of this one alive; gives its name for
    `tags_of`.
    """
    reap_abandoned(instance)
    name = f"{platform.node()} {uuid.uuid4().hex}"
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(Exception):  # a database that is briefly unavailable ends no launch
                for run in instance.get_runs(
                    dg.RunsFilter(tags={LAUNCH_TAG: name}, statuses=_STARTED)
                ):
                    instance.add_run_tags(run.run_id, tags_of(name))
                reap_abandoned(instance)

    heart = threading.Thread(target=beat, daemon=True)
    with locked(lock_of(instance, name)):
        heart.start()
        try:
            yield name
        finally:
            ended.set()
            heart.join()
            lock_of(instance, name).unlink(missing_ok=True)


def tags_of_key(key: str) -> dict[str, str]:
    """The tags with domain and method of an artifact's key, as far as it has them."""
    domain, _, method = ("" if key == ALL else key).partition("/")
    return {
        name: value for name, value in {DOMAIN_TAG: domain, METHOD_TAG: method}.items() if value
    }


def tags_of(launch: str) -> dict[str, str]:
    """Tags of a run of a launch that is alive now."""
    return {LAUNCH_TAG: launch, HEARTBEAT_TAG: f"{time.time():.0f}"}


def lock_of(instance: dg.DagsterInstance, launch: str) -> Path:
    """The file that a launch holds the lock of."""
    return Path(instance.root_directory) / "launches" / f"{launch.split()[-1]}.lock"


def reap_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Close the runs of launches that were killed, and free their places in pools; returns their
    run ids.

    Without this they would look started forever, and the next run would wait for the place on the
    GPU that they hold.
    """
    started = instance.get_runs(dg.RunsFilter(statuses=_STARTED))
    dead = [run for run in started if not is_alive(instance, run)]
    # A launch ends its runs before it frees its lock.
    again = [instance.get_run_by_id(run.run_id) for run in dead]
    dead = [run for run in again if run is not None and not run.is_finished]
    for run in dead:
        instance.report_run_failed(
            run, "The process of this launch was killed; launch again to resume."
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        lock_of(instance, run.tags[LAUNCH_TAG]).unlink(missing_ok=True)
    return [run.run_id for run in dead]


def is_alive(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether an unfinished run has its process; true of runs that no launch started, which Dagster
    watches itself.
    """
    if (name := run.tags.get(LAUNCH_TAG)) is None:
        return True
    if name.split()[0] == platform.node():
        with suppress(FileNotFoundError), lock_of(instance, name).open("r+") as file:
            return not lock(file, wait=False)
    # No clock of another machine is compared with ours, only looks by one process; after a pause,
    # as when the database was gone, they begin again.
    now, beat = time.monotonic(), run.tags.get(HEARTBEAT_TAG, "")
    before, since, last = _heartbeats.get(run.run_id, (beat, now, now))
    if beat != before or now - last > MAX_PAUSE_SECONDS:
        since = now
    _heartbeats[run.run_id] = beat, since, now
    return now - since < EXPIRY_SECONDS


_heartbeats: dict[str, tuple[str, float, float]] = {}
"""Of runs of other machines: the last heartbeat, since when it is the same, and the last look."""
