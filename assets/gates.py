"""Gates: whether the blocking checks of an artifact let what follows be built.

Belongs here: reading their last executions, and asking for one that never came to an answer. Does not belong here:
what is checked (`checks`).

A check that says no stops what follows. One that was planned and never evaluated, because its run was killed or the
check itself raised an error, says nothing: it is evaluated again, at once, then as `attempts.wait` has it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckPartitionInfo

from assets.attempts import WAIT_HOURS, Fate, Outlook, failure_of, is_under_way, short, wait
from assets.partitions import partition_of
from react_pipeline.pipeline import STAGES
from react_pipeline.project import Project
from react_pipeline.upkeep import Task

CHECK_TAG = "react/check."
"""On a run that evaluates a check anew: the fingerprint of the artifact that it is of."""

PRIORITY = "90"
"""Of such a run: seconds of work that others wait for."""


@dataclass(frozen=True)
class Unanswered:
    """A blocking check that was planned for an artifact and never evaluated.

    Attributes:
        key: Dagster's.
        partition: Of the artifact; None if it has none.
        fingerprint: Of the artifact.
        outlook: Whether it is evaluated again, and why it was not.
    """

    key: dg.AssetCheckKey
    partition: str | None
    fingerprint: str
    outlook: Outlook

    @property
    def told(self) -> str:
        """The check and what comes of it."""
        end = "evaluated now" if self.outlook.fate is Fate.AGAIN else "or execute it on the page Checks of its asset"
        return f"{named(self.key)} was not evaluated: {self.outlook.why}; {end}"


@dataclass
class Gate:
    """The blocking checks before an artifact: who says no, who is still at it, who never answered."""

    failed: list[str] = field(default_factory=list)
    running: bool = False
    unanswered: list[Unanswered] = field(default_factory=list)


def gate_of(instance: dg.DagsterInstance, graph: Any, project: Project, task: Task, now: float) -> Gate:
    """The gate of what a task would be made from; `graph` is Dagster's, `now` in seconds of the epoch.

    The artifact of a run is there before its checks are done.
    """
    gate = Gate()
    for stage, key in STAGES[task.stage].parents_of(task.key).items():
        checks = [name for name in graph.get(dg.AssetKey(stage)).check_keys if graph.get(name).blocking]
        partition = partition_of(key)
        wanted = None if partition is None else [str(partition)]
        read = partial(instance.event_log_storage.get_asset_check_partition_info, partition_keys=wanted)
        for found in read(checks):
            if _is_planned(found):
                run = instance.get_run_by_id(found.latest_planned_run_id)
                if run is not None and is_under_way(run):
                    gate.running = True
                    continue
                # It may have answered, and its run ended, since that was read.
                (found,) = read([found.check_key])
            if _is_planned(found):
                fingerprint = project.store.current(stage, key).fingerprint
                outlook = _outlook(instance, found, run, fingerprint, now)
                gate.unanswered.append(Unanswered(found.check_key, found.partition_key, fingerprint, outlook))
            elif found.latest_execution_status.value == "FAILED" and found.is_current:
                gate.failed.append(named(found.check_key))
    return gate


def requests_of(checks: Iterable[Unanswered], repository: dg.RepositoryDefinition) -> list[dg.RunRequest]:
    """A run for each check; no asset is materialized in it."""
    return [
        dg.RunRequest(
            job_name=repository.get_implicit_global_asset_job_def().name,
            asset_selection=[],
            asset_check_keys=[check.key],
            partition_key=check.partition,
            tags={
                **_partition_tags(check, repository),
                CHECK_TAG + check.key.name: check.fingerprint,
                "react/reason": f"{named(check.key)} was not evaluated",
                "dagster/priority": PRIORITY,
            },
        )
        for check in checks
    ]


def named(key: dg.AssetCheckKey) -> str:
    """As a person knows the check."""
    return f"{key.name} of {key.asset_key.path[-1]}"


def _is_planned(found: AssetCheckPartitionInfo) -> bool:
    return found.latest_execution_status.value == "PLANNED"


def _outlook(
    instance: dg.DagsterInstance,
    found: AssetCheckPartitionInfo,
    run: dg.DagsterRun | None,
    fingerprint: str,
    now: float,
) -> Outlook:
    name, asset = found.check_key.name, found.check_key.asset_key.path[-1]
    why = "its run is gone"
    if run is not None:
        ended = run.status == dg.DagsterRunStatus.FAILURE
        reason = f"failed: {failure_of(instance, run, f'{asset}_{name}').reason}" if ended else "ended before it"
        why = f"run {short(run)} {reason}"
    again = instance.get_run_records(dg.RunsFilter(tags={CHECK_TAG + name: fingerprint}), limit=len(WAIT_HOURS) + 1)
    if not again:
        return Outlook(Fate.AGAIN, why)
    last = again[0].dagster_run
    if last.status == dg.DagsterRunStatus.CANCELED:
        return Outlook(Fate.NEVER, f"run {short(last)} was cancelled")
    return wait(len(again), again[0].end_time or now, now, why)


def _partition_tags(check: Unanswered, repository: dg.RepositoryDefinition) -> dict[str, str]:
    definition = repository.asset_graph.get(check.key).partitions_def
    if check.partition is None or definition is None:
        return {}
    return dict(definition.get_tags_for_partition_key(check.partition))
