"""Runs: their tags, what their events say, and closing those whose process was killed.

Belongs here: what is read of Dagster's event log, and the executor that shows its process. Does not
belong here: running anything (`launch`), asking for runs (`extensions.automation`).
"""

import platform
import re
from collections.abc import Iterable, Iterator
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

CODE_SERVER_TAG = ".dagster/grpc_info"
"""Dagster's own tag of a run whose process is started by a code server, which alone watches it."""

_OUR_ERROR = re.compile(r"^react_pipeline\.[\w.]+: ")


def inputs_tag(project: ProjectResource) -> str:
    """Return the tag with the digest of all inputs of what automation asked for."""
    return HIDDEN + project.name("inputs")


def tags_of_key(key: str) -> dict[str, str]:
    """Return the tags with domain and method of an artifact's key, as far as it has them."""
    domain, method = domain_and_method(key)
    tags = {DOMAIN_TAG: domain, METHOD_TAG: method}
    return {name: value for name, value in tags.items() if value}


def failure_reason(event: dg.DagsterEvent) -> str:
    """Return why a step failed or is tried again, without traceback and class of the error."""
    data = event.step_retry_data if event.is_step_up_for_retry else event.step_failure_data
    user_data = getattr(data, "user_failure_data", None)
    description = user_data.description if user_data else None
    error = data.error.cause or data.error if data.error else None
    text = " ".join((description or (error.message if error else "") or "see its log").split())
    return _OUR_ERROR.sub("", text)


def built_places(
    instance: dg.DagsterInstance, project: ProjectResource, run: dg.DagsterRun
) -> Iterator[Place]:
    """Yield the places of a project that a run builds."""
    key = run.tags.get("dagster/partition", ALL).replace("|", "/")
    assets: Iterable[dg.AssetKey | None] | None = run.asset_selection
    if not assets:  # such as of a job of one's own
        planned = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        entries = instance.all_logs(run.run_id, of_type=planned)
        assets = {entry.get_dagster_event().asset_key for entry in entries}
    for asset in assets:
        if asset and asset == project.key(stage := asset.path[-1]):
            yield stage, key


def run_of_last(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    partition: str | None,
    after: float | None = None,
) -> str:
    """Return the id of the run that last materialized an asset or one of its partitions, after a
    time in seconds; "" if none did.
    """
    wanted = dg.AssetRecordsFilter(
        key, asset_partitions=[partition] if partition else None, after_timestamp=after
    )
    found = instance.fetch_materializations(wanted, limit=1).records
    return found[0].run_id if found else ""


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
            # Until this process ends, which is after the last event of its run.
            _until_the_end.enter_context(shown_alive(plan_context.instance, run.run_id))
        return execute(plan_context, execution_plan)

    executor.execute = shown
    return executor


_until_the_end = ExitStack()


@contextmanager
def shown_alive(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Hold a lock file with the names of this machine and of the run that this process carries out;
    the kernel frees it however the process ends.

    Dagster shows a run as started forever if its process ends while the database is gone, or with
    its code server, as when a machine restarts.
    """
    path = _locks(instance) / f"{platform.node()} {run_id}.lock"
    # Renamed once it is locked: whoever finds it free closes the run.
    with locked(path.with_suffix(".new")):
        path.with_suffix(".new").rename(path)
        yield


def reap_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Close the runs of this machine whose process is dead, and free their places in pools; returns
    their run ids.

    Without this they would look started forever, and the next run would wait for the place on the
    GPU that they hold.
    """
    abandoned = []
    for path in _locks(instance).glob(f"{platform.node()} *.lock"):
        with suppress(FileNotFoundError), path.open("r+") as file:
            if not lock(file, wait=False):
                continue
            # A process ends its run before it frees its lock.
            run = instance.get_run_by_id(path.stem.split()[-1])
            if run is not None and not run.is_finished:
                instance.report_run_failed(run, "The process of this run was killed; run it again.")
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                abandoned.append(run.run_id)
            path.unlink()
    return abandoned


def _locks(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "processes"
