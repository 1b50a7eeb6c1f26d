"""Runs: their tags, what their events say, and closing those whose process was killed.

Belongs here: what is read of Dagster's event log, and the executor that shows its process. Does not
belong here: running anything (`launch`), asking for runs (`extensions.automation`).
"""

import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import cache
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

PROCESS_TAG = f"{HIDDEN}process"
"""The machine and the lock of the process that carries out a run, and the run."""
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


@dg.executor(name="in_process", config_schema=dg.in_process_executor.config_schema.config_type)
def in_process(context: dg.InitExecutorContext) -> dg.Executor:
    """Dagster's executor of one process, which `reap_abandoned` sees from the start of a run."""
    create: Any = dg.in_process_executor.executor_creation_fn
    executor = create(context)
    execute = executor.execute

    def shown(plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        run = plan_context.dagster_run
        # Other launchers, such as that of Kubernetes, are asked by Dagster.
        if CODE_SERVER_TAG in run.tags:
            tags = process_tags(plan_context.instance, run.run_id)
            plan_context.instance.add_run_tags(run.run_id, tags)
        return execute(plan_context, execution_plan)

    executor.execute = shown
    return executor


def process_tags(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Return the tag by which `reap_abandoned` sees whether this process, which carries out a run,
    is alive.

    Dagster shows a run as started forever if its process ends while the database is gone, or with
    its code server, as when a machine restarts.
    """
    return {PROCESS_TAG: f"{_held_lock(instance.root_directory)} {run_id}"}


@cache
def _held_lock(home: str) -> str:
    """Hold a lock file until this process ends, which the kernel frees however it does."""
    name = f"{platform.node()} {uuid.uuid4().hex}"
    path = _lock_of(home, name)
    # Renamed once it is locked: whoever finds it free may remove it.
    _held.enter_context(locked(path.with_suffix(".new")))
    path.with_suffix(".new").rename(path)
    return name


_held = ExitStack()


def tags_of_key(key: str) -> dict[str, str]:
    """The tags with domain and method of an artifact's key, as far as it has them."""
    domain, method = domain_and_method(key)
    tags = {DOMAIN_TAG: domain, METHOD_TAG: method}
    return {name: value for name, value in tags.items() if value}


def reap_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Close the runs of this machine whose process is dead, and free their places in pools; returns
    their run ids.

    Without this they would look started forever, and the next run would wait for the place on the
    GPU that they hold.
    """
    started = instance.get_runs(dg.RunsFilter(statuses=_STARTED))
    dead = [run.run_id for run in started if _is_dead(instance, run)]
    # A process ends its runs before it frees its lock.
    again = [instance.get_run_by_id(run_id) for run_id in dead]
    abandoned = [run for run in again if run is not None and not run.is_finished]
    for run in abandoned:
        instance.report_run_failed(run, "The process of this run was killed; run it again.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    for path in _lock_of(instance.root_directory, f"{platform.node()} *").parent.glob("*.lock"):
        with suppress(FileNotFoundError):
            if path.name.startswith(f"{platform.node()} ") and _is_free(path):
                path.unlink()
    return [run.run_id for run in abandoned]


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process of a run is known and gone; no run of another machine is judged."""
    name, _, run_id = run.tags.get(PROCESS_TAG, "").rpartition(" ")
    # Dagster copies tags to the run that tries again.
    if run_id != run.run_id or name.split()[0] != platform.node():
        return False
    try:
        return _is_free(_lock_of(instance.root_directory, name))
    except FileNotFoundError:
        return True


def _lock_of(home: str, name: str) -> Path:
    return Path(home) / "processes" / f"{name}.lock"


def _is_free(path: Path) -> bool:
    with path.open("r+") as file:
        return lock(file, wait=False)
