"""Runs: their tags, why one failed, and closing those whose process was killed.

Belongs here: keeping runs of the command line alive, and the executor of all others. Does not
belong here: running anything (`launch`), what automation reads of runs (`extensions.automation`). A
launch, or the process of a run of a code server, holds a lock file in the Dagster home, which the
kernel frees however the process ends. Each machine closes the runs that it started itself.
"""

import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg

from react_pipeline.assets.resources import ProjectResource
from react_pipeline.stage import ALL, Place, domain_and_method
from react_pipeline.store import lock, locked

DOMAIN_TAG, METHOD_TAG, REASON_TAG = "domain", "method", "reason"
"""What people filter runs by, and why automation asked for one."""
USER_TAG, COMMAND_LINE = "user", "command line"
"""Dagster's own tag for its column *Launched by*, and its value for runs of the command line."""

HIDDEN = ".dagster/react-"
"""Prefix of tags for programs: Dagster's pages hide tags of `.dagster/`, and queries find them."""

TRY_TAG = f"{HIDDEN}try"
"""How often automation has asked for the same, as a number."""
WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's own tag of a failed run that its daemon is about to start again."""

LAUNCH_TAG = f"{HIDDEN}launch"
CODE_SERVER_TAG = ".dagster/grpc_info"
"""Dagster's own tag of a run whose process is started by a code server, which alone watches it."""

_OUR_ERROR = re.compile(r"^react_pipeline\.[\w.]+: ")
_STATUS = dg.DagsterRunStatus
_STARTED = [_STATUS.STARTED, _STATUS.STARTING, _STATUS.CANCELING]


def inputs_tag(project: ProjectResource) -> str:
    """Return the tag with the digest of all inputs of what automation asked for."""
    return HIDDEN + project.name("inputs")


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


def places_of(
    instance: dg.DagsterInstance, project: ProjectResource, run: dg.DagsterRun
) -> Iterator[Place]:
    """Yield the places of a project that a run builds."""
    key = run.tags.get("dagster/partition", ALL).replace("|", "/")
    for asset in run.asset_selection or planned_assets(instance, run.run_id):
        if asset is not None and asset == project.key(stage := asset.path[-1]):
            yield stage, key


def last_ticks(instance: dg.DagsterInstance) -> Iterator[tuple[str, Any]]:
    """Yield the last tick of each sensor and schedule that has one, by its name."""
    for state in instance.all_instigator_state():
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1):
            yield state.instigator_name, tick


@contextmanager
def registered(instance: dg.DagsterInstance) -> Iterator[str]:
    """Close what killed launches left, and hold the lock of this one; gives its name for
    `LAUNCH_TAG`.
    """
    reap_abandoned(instance)
    name = f"{platform.node()} {uuid.uuid4().hex}"
    with locked(lock_of(instance, name)):
        try:
            yield name
        finally:
            lock_of(instance, name).unlink(missing_ok=True)


@dg.executor(name="in_process", config_schema=dg.in_process_executor.config_schema.config_type)
def in_process(context: dg.InitExecutorContext) -> dg.Executor:
    """Dagster's executor of one process, which `reap_abandoned` sees from the start of a run."""
    create: Any = dg.in_process_executor.executor_creation_fn
    executor = create(context)
    execute = executor.execute

    def shown(plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        show_process(plan_context.instance, plan_context.dagster_run)
        return execute(plan_context, execution_plan)

    executor.execute = shown
    return executor


def show_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Let `reap_abandoned` see whether this process, which carries out a run, is alive.

    Dagster shows a run as started forever if its process ends while the database is gone, or with
    its code server, as when a machine restarts. Other launchers, such as that of Kubernetes, are
    asked by Dagster.
    """
    if CODE_SERVER_TAG in run.tags:
        path = lock_of(instance, f"{platform.node()} {run.run_id}")
        # Renamed once it is locked: whoever finds it free may close the run.
        _shown.enter_context(locked(path.with_suffix(".new")))
        path.with_suffix(".new").rename(path)


_shown = ExitStack()
"""The locks of the runs of this process, held until it ends."""


def tags_of_key(key: str) -> dict[str, str]:
    """The tags with domain and method of an artifact's key, as far as it has them."""
    domain, method = domain_and_method(key)
    tags = {DOMAIN_TAG: domain, METHOD_TAG: method}
    return {name: value for name, value in tags.items() if value}


def lock_of(instance: dg.DagsterInstance, launch: str) -> Path:
    """The file that a launch, or the process of a run, holds the lock of; both are named by their
    machine and an id.
    """
    return Path(instance.root_directory) / "launches" / f"{launch}.lock"


def reap_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Close the runs whose process was killed, and free their places in pools; returns their run
    ids.

    Without this they would look started forever, and the next run would wait for the place on the
    GPU that they hold.
    """
    locks = list(lock_of(instance, "*").parent.glob("*.lock"))
    started = instance.get_runs(dg.RunsFilter(statuses=_STARTED))
    dead = [run for run in started if not is_alive(instance, run)]
    # A launch ends its runs before it frees its lock.
    again = [instance.get_run_by_id(run.run_id) for run in dead]
    dead = [run for run in again if run is not None and not run.is_finished]
    for run in dead:
        instance.report_run_failed(
            run, "The process of this run was killed; launch again to resume."
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    # No process removes its own: one that ends because the database is gone leaves its run started.
    held = {run.run_id for run in started}
    held |= {run.tags[LAUNCH_TAG].split()[-1] for run in started if LAUNCH_TAG in run.tags}
    for path in locks:
        with suppress(FileNotFoundError):
            if path.stem.split()[-1] not in held and _is_free(path):
                path.unlink()
    return [run.run_id for run in dead]


def is_alive(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether an unfinished run has its process; true of runs that have not shown theirs,
    and of those of other machines.
    """
    with suppress(FileNotFoundError):
        return not _is_free(lock_of(instance, f"{platform.node()} {run.run_id}"))
    # Dagster copies tags to the run that tries again.
    if CODE_SERVER_TAG in run.tags or LAUNCH_TAG not in run.tags:
        return True
    name = run.tags[LAUNCH_TAG]
    if name.split()[0] != platform.node():
        return True
    with suppress(FileNotFoundError):  # it has ended its runs, or could not
        return not _is_free(lock_of(instance, name))
    return False


def _is_free(path: Path) -> bool:
    with path.open("r+") as file:
        return lock(file, wait=False)
