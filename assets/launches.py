"""Launches: which runs of the command line still have their process, and closing those that do not.

Belongs here: the tags of such runs, and what shows that a launch is alive. Does not belong here: running anything
(`launch`). A launch holds a lock file in the Dagster home, which the kernel frees however the process ends. Seen from
another machine, where that lock may not count, it is alive while its heartbeat is recent.
"""

import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg

from react_pipeline.store import lock, locked

LAUNCH_TAG, HEARTBEAT_TAG = "react/launch", "react/heartbeat"
HEARTBEAT_SECONDS = 30.0
EXPIRY_SECONDS = 600.0
"""A launch of another machine without a heartbeat for so long is dead; clocks may differ a little."""

_UNFINISHED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]


@contextmanager
def registered(instance: dg.DagsterInstance) -> Iterator[str]:
    """Close what killed launches left, and keep the runs of this one alive; gives its name for `tags_of`."""
    reap_abandoned(instance)
    name, ended = f"{platform.node()} {uuid.uuid4().hex}", threading.Event()
    heart = threading.Thread(target=_beat, args=(instance, name, ended), daemon=True)
    with locked(lock_of(instance, name)):
        heart.start()
        try:
            yield name
        finally:
            ended.set()
            heart.join()
            lock_of(instance, name).unlink()


def tags_of(name: str) -> dict[str, str]:
    """Tags of a run that a launch is about to start."""
    return {LAUNCH_TAG: name, HEARTBEAT_TAG: f"{time.time():.0f}"}


def lock_of(instance: dg.DagsterInstance, name: str) -> Path:
    """The file that a launch holds the lock of."""
    return Path(instance.root_directory) / "launches" / f"{name.split()[-1]}.lock"


def reap_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Close the runs of launches that were killed, and free their places in pools; returns their run ids.

    Without this they would look started forever, and the next run would wait for the place on the GPU that they hold.
    """
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)) if not is_alive(instance, run)]
    for run in dead:
        instance.report_run_failed(run, "The process of this launch was killed; launch again to resume.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        lock_of(instance, run.tags[LAUNCH_TAG]).unlink(missing_ok=True)
    return [run.run_id for run in dead]


def is_alive(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether an unfinished run has its process; true of runs that no launch started, which Dagster watches itself."""
    if (name := run.tags.get(LAUNCH_TAG)) is None:
        return True
    if name.split()[0] == platform.node() and lock_of(instance, name).exists():
        with lock_of(instance, name).open("a") as file:
            return not lock(file, wait=False)
    return time.time() - float(run.tags.get(HEARTBEAT_TAG, "0")) < EXPIRY_SECONDS


def _beat(instance: dg.DagsterInstance, name: str, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with suppress(Exception):  # a database that is briefly unavailable ends no launch
            for run in instance.get_runs(dg.RunsFilter(tags={LAUNCH_TAG: name}, statuses=_UNFINISHED)):
                instance.add_run_tags(run.run_id, {HEARTBEAT_TAG: f"{time.time():.0f}"})
