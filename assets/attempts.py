"""Attempts: the outcome of the runs of an artifact or a check, and when to try again.

Belongs here: reading runs by their tags, backoff after transient faults. Does not belong
here: what is due (`react_pipeline.upkeep`), asking for it (`upkeep_sensor`). Runs are the only memory: each carries the
digest of its inputs, the digest of the sources and the number of the try.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import dagster as dg

import assets
import react_pipeline
from assets.launches import is_alive
from assets.partitions import partition_of
from assets.reporting import INTERRUPTED
from react_pipeline.project import SETTINGS_FILE, Project, locate_home
from react_pipeline.upkeep import Task

INPUTS_TAG, CHECK_TAG, CODE_TAG, TRY_TAG = "react/inputs.", "react/check.", "react/code", "react/try"
WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's own, on a failed run that its daemon is about to start again."""

WAIT_HOURS = (1, 2, 4, 8, 16)
"""Wait before each further try after a transient fault: together longer than an outage of a day."""

OUT_OF_RETRIES = "RetryRequestedFromPolicy"
"""Dagster's name of the error of a step whose retries are exhausted; only transient faults are retried."""

MAX_REASON_CHARS = 200
_STATUS = dg.DagsterRunStatus
_UNDER_WAY = {_STATUS.QUEUED, _STATUS.STARTING, _STATUS.STARTED, _STATUS.CANCELING}


@dataclass(frozen=True)
class Outlook:
    """What follows for something that is due: a run is active, one is asked for now, or none is; why; which try."""

    fate: Literal["under way", "ask", "leave"]
    why: str = ""
    tries: int = 1


def outlook_of(instance: dg.DagsterInstance, task: Task, code: str, now: float) -> Outlook:
    """Whether an artifact that is due is asked for; `now` in seconds of the epoch."""
    newest = newest_run(instance, task)
    if newest is not None and is_under_way(newest):
        return Outlook("under way")
    tag = {INPUTS_TAG + task.stage: task.inputs}
    return outlook_by_tag(instance, tag, task.stage, code, now, newest)


def outlook_by_tag(
    instance: dg.DagsterInstance,
    tag: Mapping[str, str],
    step: str,
    code: str,
    now: float,
    newest: dg.DagsterRun | None = None,
    *,
    is_check: bool = False,
) -> Outlook:
    """The same by the last run with a tag; `newest` is the last run of the artifact, whoever started it.

    A check that raises is retried whatever the error: it neither passed nor failed.
    """
    found = instance.get_run_records(dg.RunsFilter(tags=dict(tag)), limit=1)
    if not found:
        return Outlook("ask")
    run, ended = found[0].dagster_run, found[0].end_time or found[0].update_timestamp.timestamp()
    if is_under_way(run):
        return Outlook("under way")
    if newest is not None and newest.run_id != run.run_id and newest.status == _STATUS.SUCCESS:
        return Outlook("ask")  # another version was built since, so this run does not count
    if run.status == _STATUS.CANCELED:
        return Outlook("leave", f"its run {short(run)} was cancelled; materialize it to run it again")
    if run.tags.get(CODE_TAG, code) != code:
        return Outlook("ask", f"run {short(run)} had other code")
    tries, why, may_pass = int(run.tags.get(TRY_TAG, "1")), f"its run {short(run)} built nothing that is fresh", True
    if run.status == _STATUS.FAILURE:
        failure = failure_of(instance, run, step)
        why, may_pass = f"its run {short(run)} failed: {failure.reason}", failure.may_pass or is_check
        if failure.interrupted:
            return Outlook("ask", why, tries)
    if not may_pass:
        return Outlook("leave", f"{why}. It will keep failing until something changes; or materialize it by hand")
    if tries > len(WAIT_HOURS):
        return Outlook("leave", f"{why}; tried {tries} times. Fix the cause, then materialize it by hand")
    due = ended + 3600 * WAIT_HOURS[tries - 1]
    if now >= due:
        return Outlook("ask", why, tries + 1)
    when = f"{datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC"
    return Outlook("leave", f"{why}; next try after {when}: number {tries + 1} of {len(WAIT_HOURS) + 1}")


@dataclass(frozen=True)
class Failure:
    """Why a run failed."""

    reason: str
    interrupted: bool = False
    may_pass: bool = False


def failure_of(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str) -> Failure:
    """Why a run failed: by this step, else by any other, else by none, as when its process was killed."""
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = [event for entry in entries if (event := entry.get_dagster_event())]
    failed = [event for event in events if event.step_key == step] or events
    if not failed:
        return Failure("it ended before its work was done", may_pass=True)
    reason, error = reason_of(failed[-1]), failed[-1].step_failure_data.error
    may_pass = error is not None and error.cls_name == OUT_OF_RETRIES
    return Failure(reason[:MAX_REASON_CHARS].rstrip("."), reason == INTERRUPTED, may_pass)


def reason_of(event: dg.DagsterEvent) -> str:
    """The text of a step's failure, without its traceback."""
    data = event.step_failure_data
    described = data.user_failure_data.description if data.user_failure_data else None
    error = data.error.cause or data.error if data.error else None
    return " ".join((described or (error.message if error else "") or "see its log").split())


def failures(instance: dg.DagsterInstance, tasks: Iterable[Task]) -> Mapping[Task, tuple[str, bool]]:
    """Of what is due: why its last run failed, and whether that run is known to have had today's inputs."""
    found = {}
    for task in tasks:
        run, tag = newest_run(instance, task), INPUTS_TAG + task.stage
        if run is None or is_under_way(run) or task.inputs != run.tags.get(tag, task.inputs):
            continue
        if run.status == _STATUS.CANCELED:
            found[task] = (f"run {short(run)} was cancelled", tag in run.tags)
        elif run.status == _STATUS.FAILURE:
            reason = failure_of(instance, run, task.stage).reason
            found[task] = (f"run {short(run)} failed: {reason}", tag in run.tags)
    return found


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


def newest_run(instance: dg.DagsterInstance, task: Task) -> dg.DagsterRun | None:
    """The last run that was to build an artifact, whoever started it."""
    partition = partition_of(task.key)
    planned = instance.event_log_storage.get_latest_planned_materialization_info(
        dg.AssetKey(task.stage), None if partition is None else str(partition)
    )
    return instance.get_run_by_id(planned.run_id) if planned else None


def is_under_way(run: dg.DagsterRun) -> bool:
    """Whether a run may still succeed: it is active, or its process was killed and Dagster starts it again."""
    if run.status == _STATUS.FAILURE:
        return run.tags.get(WILL_RETRY_TAG) == "true"
    return run.status in _UNDER_WAY and is_alive(run)


def code_digest() -> str:
    """Of the sources that a run would load now: what failed because of a fault of theirs may succeed with others."""
    digest = hashlib.sha256()
    for package in (react_pipeline, assets):
        for path in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def short(run: dg.DagsterRun) -> str:
    """The run's name as Dagster's pages show it."""
    return run.run_id[:8]
