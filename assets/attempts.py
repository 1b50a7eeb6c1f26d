"""Attempts: what became of the runs that were asked for, and when another one is wanted.

Belongs here: reading the runs of an artifact, how long and how often a fault that may pass is waited for. Does not
belong here: what is due (`react_pipeline.upkeep`), asking for it (`conditions`), checks (`gates`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import dagster as dg

import assets
import react_pipeline
from assets.partitions import partition_of
from assets.reporting import INTERRUPTED
from react_pipeline.dagster_home import SETTINGS_FILE, locate_home
from react_pipeline.lineage import ALL, Project
from react_pipeline.upkeep import Task

INPUTS_TAG = "react/inputs."
WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's own, on a failed run that its daemon is about to start again."""

WAIT_HOURS = (1, 2, 4, 8, 16)
"""How long each further try waits after a fault that may pass. All of them outlive an outage of a day, and hammer
nothing; what is not there after the last needs a person."""

OUT_OF_RETRIES = "RetryRequestedFromPolicy"
"""Dagster's name of what ends a step that its retry policy has tried again. `reporting.readable_failures` lets only
faults that may pass come to that."""

MAX_REASON_CHARS = 200
_UNDER_WAY = {
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
}


class Fate(StrEnum):
    """What follows from the last run of something that is not there."""

    UNDER_WAY = "under way"
    AGAIN = "again"
    """Asked for again in this tick."""
    LATER = "later"
    """Asked for again when its time has come."""
    NEVER = "never"
    """Only a change, or a person, brings it."""


@dataclass(frozen=True)
class Asked:
    """With what something was asked for last, as a cursor remembers it.

    Attributes:
        inputs: Digest of all that it is built from.
        code: `code_digest` of then; empty where an older version asked.
        tries: How often it was asked for with these inputs and this code.
        at: When, in seconds of the epoch.
    """

    inputs: str
    code: str = ""
    tries: int = 1
    at: float = 0.0

    @classmethod
    def read(cls, value: Any) -> "Asked":
        """Of a cursor; older ones hold the digest alone."""
        return cls(value) if isinstance(value, str) else cls(**value)


@dataclass(frozen=True)
class Outlook:
    """What follows, why, and which try the next one is."""

    fate: Fate
    why: str = ""
    tries: int = 1


@dataclass(frozen=True)
class Failure:
    """Why a run failed."""

    reason: str
    interrupted: bool = False
    may_pass: bool = False


def outlook_of(instance: dg.DagsterInstance, stage: str, asked: Asked, code: str, now: float) -> Outlook:
    """Whether an artifact that was asked for, and is not there, is asked for again; `now` in seconds of the epoch."""
    found = instance.get_run_records(dg.RunsFilter(tags={INPUTS_TAG + stage: asked.inputs}), limit=1)
    if not found:
        return wait(asked.tries, asked.at, now, "its run is gone")
    run, ended = found[0].dagster_run, found[0].end_time or asked.at
    if is_under_way(run):
        return Outlook(Fate.UNDER_WAY)
    if run.status == dg.DagsterRunStatus.CANCELED:
        return Outlook(Fate.NEVER, f"its run {short(run)} was cancelled. Materialize it when you want it after all")
    if asked.code and asked.code != code:
        return Outlook(Fate.AGAIN, f"run {short(run)} had other code")
    if run.status != dg.DagsterRunStatus.FAILURE:
        return wait(asked.tries, ended, now, f"nothing came of its run {short(run)} ({run.status.value})")
    failure = failure_of(instance, run, stage)
    why = f"its run {short(run)} failed: {failure.reason}"
    if failure.interrupted:
        return Outlook(Fate.AGAIN, why, asked.tries)
    if failure.may_pass:
        return wait(asked.tries, ended, now, why)
    return Outlook(Fate.NEVER, f"{why}. It fails so again until something changes; or materialize it by hand")


def wait(tries: int, since: float, now: float, why: str) -> Outlook:
    """What follows after so many tries for something that may pass; times in seconds of the epoch."""
    if tries > len(WAIT_HOURS):
        return Outlook(Fate.NEVER, f"{why}; tried {tries} times. Mend the cause, then materialize it by hand")
    due = since + 3600 * WAIT_HOURS[tries - 1]
    if now >= due:
        return Outlook(Fate.AGAIN, why, tries + 1)
    when = f"{datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC"
    return Outlook(Fate.LATER, f"{why}; asked for again after {when}, try {tries + 1} of {len(WAIT_HOURS) + 1}")


def failure_of(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str) -> Failure:
    """Why a run failed: by this step, else by any other, else by none, as when its process was killed."""
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = [event for entry in entries if (event := entry.get_dagster_event())]
    failed = [event for event in events if event.step_key == step] or events
    if not failed:
        return Failure("it ended before its work did", may_pass=True)
    data = failed[-1].step_failure_data
    told = data.user_failure_data.description if data.user_failure_data else None
    error = data.error.cause or data.error if data.error else None
    reason = " ".join((told or (error.message if error else "") or "see its log").split())
    return Failure(
        reason[:MAX_REASON_CHARS].rstrip("."),
        interrupted=told == INTERRUPTED,
        may_pass=data.error is not None and data.error.cls_name == OUT_OF_RETRIES,
    )


def is_under_way(run: dg.DagsterRun) -> bool:
    """Whether something may still come of a run: it goes on, or its process was killed and Dagster starts it again."""
    killed = run.status == dg.DagsterRunStatus.FAILURE and run.tags.get(WILL_RETRY_TAG) == "true"
    return killed or run.status in _UNDER_WAY


def code_digest() -> str:
    """Of the sources that a run would load now: what failed by a fault of theirs may come out otherwise by others."""
    digest = hashlib.sha256()
    for package in (react_pipeline, assets):
        for path in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def failures(instance: dg.DagsterInstance, tasks: Iterable[Task]) -> Mapping[Task, tuple[str, bool]]:
    """Of what is due: why its last run failed, and whether that run is known to have had today's inputs."""
    told = {}
    for task in tasks:
        partition = partition_key(task.key)
        planned = instance.event_log_storage.get_latest_planned_materialization_info(
            dg.AssetKey(task.stage), None if partition is None else str(partition)
        )
        run = instance.get_run_by_id(planned.run_id) if planned else None
        if run is None or is_under_way(run) or task.inputs != run.tags.get(INPUTS_TAG + task.stage, task.inputs):
            continue
        if run.status == dg.DagsterRunStatus.CANCELED:
            told[task] = (f"run {short(run)} was cancelled", INPUTS_TAG + task.stage in run.tags)
        elif run.status == dg.DagsterRunStatus.FAILURE:
            reason = failure_of(instance, run, task.stage).reason
            told[task] = (f"run {short(run)} failed: {reason}", INPUTS_TAG + task.stage in run.tags)
    return told


@contextmanager
def instance_with_runs(project: Project) -> Iterator[dg.DagsterInstance | None]:
    """The Dagster instance as `launch.open_instance` finds it, if there is one yet; nothing is made."""
    home = locate_home(project.path.parent)
    settings = home / SETTINGS_FILE
    # Without a storage of its own, Dagster keeps its databases in the home.
    elsewhere = settings.is_file() and "\nstorage:" in f"\n{settings.read_text(encoding='utf-8')}"
    if not (elsewhere or (home / "history").is_dir()):
        yield None
        return
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def partition_key(key: str) -> str | None:
    """The partition key of what the library calls `key`."""
    return partition_of(*key.split("/")) if "/" in key else None if key == ALL else key


def short(run: dg.DagsterRun) -> str:
    """The run's name as Dagster's pages show it."""
    return run.run_id[:8]
