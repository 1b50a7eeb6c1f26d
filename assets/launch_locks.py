"""Locks of launches: which are alive, and closing the runs that killed ones left.

Belongs here: the lock file of each launch. Does not belong here: running anything (`launch`).
"""

import fcntl
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

LAUNCH_TAG = "react/launch"


@contextmanager
def registered(instance: dg.DagsterInstance) -> Iterator[str]:
    """Hold a lock of this launch, after closing what killed ones left; gives the id that its runs are tagged with."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    launch_id = uuid.uuid4().hex[:12]
    path = lock_path(launch_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One launch at a time enters or cleans up; otherwise one could remove another's file before it is locked.
    with (path.parent / "entering").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        handle = path.open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        reap_abandoned(instance)
        for left in path.parent.glob("*.lock"):
            if left != path and not _is_alive(left):
                left.unlink(missing_ok=True)
    with handle:
        try:
            yield launch_id
        finally:
            path.unlink(missing_ok=True)


def reap_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Close the runs of launches that were killed, and free their places in pools; returns their run ids.

    Without this they would look started forever, and the next run would wait for the place on the GPU that they hold.
    """
    reaped = []
    unfinished = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]
    for run in instance.get_runs(RunsFilter(statuses=unfinished)):
        launch_id = run.tags.get(LAUNCH_TAG)
        if launch_id and not _is_alive(lock_path(launch_id)):
            instance.report_run_failed(run, "The process of this launch was killed; launch again to go on.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            reaped.append(run.run_id)
    return reaped


def lock_path(launch_id: str) -> Path:
    """The file that a living launch keeps locked."""
    return Path(os.environ["DAGSTER_HOME"]) / "launches" / f"{launch_id}.lock"


def _is_alive(path: Path) -> bool:
    # The kernel frees the lock when its holder dies; process ids are used again, locks are not.
    try:
        with path.open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
