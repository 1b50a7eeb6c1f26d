"""Attempts: the outcome of the runs of an artifact, and when to try again.

Belongs here: reading runs by their tags, backoff after transient faults. Does not belong here: what is due
(`react_pipeline.upkeep`), asking for it (`upkeep_sensor`). Runs are the only memory: each carries the digest of its
inputs, the digest of the sources and the number of the try.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dagster as dg

import react_pipeline
from react_pipeline import assets
from react_pipeline.assets.declared import blocking_checks
from react_pipeline.assets.launches import is_alive
from react_pipeline.assets.partitions import name_of
from react_pipeline.assets.reporting import INTERRUPTED
from react_pipeline.project import SETTINGS_FILE, Project, locate_home
from react_pipeline.upkeep import Task

INPUTS_TAG, CODE_TAG, TRY_TAG = "react/inputs.", "react/code", "react/try"
WILL_RETRY_TAG = "dagster/will_retry"
"""Dagster's own, on a failed run that its daemon is about to start again."""

WAIT_HOURS = (1, 2, 4, 8, 16)
"""Wait before each further try after a transient fault: together longer than an outage of a day."""

OUT_OF_RETRIES = "RetryRequestedFromPolicy"
"""Dagster's name of the error of a step whose retries are exhausted; only transient faults are retried."""

MAX_REASON_CHARS = 200
_STATUS = dg.DagsterRunStatus


@dataclass(frozen=True)
class Outlook:
    """What follows for something that is due: a run is active, one is asked for now, or none is; why; which try."""

    fate: Literal["under way", "ask", "leave"]
    why: str = ""
    tries: int = 1


def outlook_of(instance: dg.DagsterInstance, task: Task, code: str, now: float) -> Outlook:
    """Whether something that is due is asked for, by the last run of it and the last with today's inputs.

    `now` is in seconds of the epoch.
    """
    newest = newest_run(instance, task)
    found = instance.get_run_records(dg.RunsFilter(tags={INPUTS_TAG + task.stage: task.inputs}), limit=1)
    run = found[0].dagster_run if found else None
    if any(one is not None and is_under_way(instance, one) for one in (newest, run)):
        return Outlook("under way")
    if run is None:
        return Outlook("ask")
    if newest is not None and newest.run_id != run.run_id and newest.status == _STATUS.SUCCESS:
        return Outlook("ask")  # another version was built since, so this run does not count
    ending, tries = ending_of(instance, run, task.stage), int(run.tags.get(TRY_TAG, "1"))
    why = f"its {ending.text}"
    if run.status == _STATUS.CANCELED:
        return Outlook("leave", f"{why}; materialize it to run it again")
    if run.tags.get(CODE_TAG, code) != code:
        return Outlook("ask", f"run {run.run_id[:8]} had other code")
    if ending.is_interrupted:
        return Outlook("ask", why, tries)
    if not ending.is_transient:
        return Outlook("leave", f"{why}. It will keep failing until something changes; or materialize it by hand")
    if tries > len(WAIT_HOURS):
        return Outlook("leave", f"{why}; tried {tries} times. Fix the cause, then materialize it by hand")
    due = (found[0].end_time or found[0].update_timestamp.timestamp()) + 3600 * WAIT_HOURS[tries - 1]
    if now >= due:
        return Outlook("ask", why, tries + 1)
    when = f"{datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC"
    return Outlook("leave", f"{why}; retried after {when}, try {tries + 1} of {len(WAIT_HOURS) + 1}")


@dataclass(frozen=True)
class Ending:
    """How a run ended, as the end of a sentence; whether with the servers, and whether trying again may help."""

    text: str
    is_interrupted: bool = False
    is_transient: bool = True


def ending_of(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str) -> Ending:
    """How a run ended: by this step, else by any other, else by none, as when its process was killed.

    Only an error of the step itself may last. A check that raises one neither passed nor failed, so it is tried again.
    """
    name = f"run {run.run_id[:8]}"
    if run.status != _STATUS.FAILURE:
        return Ending(f"{name} " + ("was cancelled" if run.is_failure_or_canceled else "built nothing that is fresh"))
    entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = [event for entry in entries if (event := entry.get_dagster_event())]
    failed = next((event for event in events if event.step_key == step), events[-1] if events else None)
    if failed is None:
        return Ending(f"{name} failed: it ended before its work was done")
    reason, error = reason_of(failed), failed.step_failure_data.error
    is_transient = failed.step_key != step or (error is not None and error.cls_name == OUT_OF_RETRIES)
    return Ending(f"{name} failed: {reason[:MAX_REASON_CHARS].rstrip('.')}", reason == INTERRUPTED, is_transient)


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
        run = newest_run(instance, task)
        if run is None or not run.is_failure_or_canceled or is_under_way(instance, run):
            continue
        if (inputs := run.tags.get(INPUTS_TAG + task.stage, "")) in ("", task.inputs):
            found[task] = (ending_of(instance, run, task.stage).text, bool(inputs))
    return found


def instance_with_runs(project: Project) -> dg.DagsterInstance | None:
    """The Dagster instance as `launch.open_instance` finds it, if there is one yet; nothing is made."""
    home = locate_home(project.path.parent)
    settings = home / SETTINGS_FILE
    # Without a storage of its own, Dagster keeps its databases in the home.
    elsewhere = settings.is_file() and "\nstorage:" in f"\n{settings.read_text(encoding='utf-8')}"
    return dg.DagsterInstance.from_config(str(home)) if elsewhere or (home / "history").is_dir() else None


def evaluations_of(instance: dg.DagsterInstance, stage: str, key: str) -> Sequence[Any]:
    """The last evaluation of each blocking check of an artifact, planned ones too."""
    partitions = None if (partition := name_of(key)) is None else [partition]
    return instance.event_log_storage.get_asset_check_partition_info(blocking_checks(stage), partition_keys=partitions)


def newest_run(instance: dg.DagsterInstance, task: Task) -> dg.DagsterRun | None:
    """The last run that was to build an artifact, whoever started it."""
    asset, partition = dg.AssetKey(task.stage), name_of(task.key)
    planned = instance.event_log_storage.get_latest_planned_materialization_info(asset, partition)
    return instance.get_run_by_id(planned.run_id) if planned else None


def is_under_way(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run may still succeed: it is active, or its process was killed and Dagster starts it again."""
    if run.status == _STATUS.FAILURE:
        return run.tags.get(WILL_RETRY_TAG) == "true"
    return not run.is_finished and is_alive(instance, run)


def code_digest() -> str:
    """Of the sources that a run would load now: what failed because of a fault of theirs may succeed with others."""
    digest = hashlib.sha256()
    for package in (react_pipeline, assets):
        for path in sorted(Path(next(iter(package.__path__))).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
