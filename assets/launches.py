"""Launches: which runs of the command line are alive, as Dagster's database has it, and closing those that are not.

Belongs here: the tags of such runs, their heartbeat. Does not belong here: running anything (`launch`). On its own
machine a launch is alive while its process is there; seen from another one, while its heartbeat is recent.
"""

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg

LAUNCH_TAG, HEARTBEAT_TAG = "react/launch", "react/heartbeat"
HEARTBEAT_SECONDS = 30.0
EXPIRY_SECONDS = 600.0
"""A launch of another machine without a heartbeat for so long is dead; clocks may differ a little."""

_UNFINISHED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]


@contextmanager
def registered(instance: dg.DagsterInstance) -> Iterator[str]:
    """Close what killed launches left, and keep the runs of this one alive; gives its name for `tags_of`."""
    reap_abandoned(instance)
    name, ended = _name(os.getpid()), threading.Event()
    heart = threading.Thread(target=_beat, args=(instance, name, ended), daemon=True)
    heart.start()
    try:
        yield name
    finally:
        ended.set()
        heart.join()


def tags_of(name: str) -> dict[str, str]:
    """Tags of a run that a launch is about to start."""
    return {LAUNCH_TAG: name, HEARTBEAT_TAG: f"{time.time():.0f}"}


def reap_abandoned(instance: dg.DagsterInstance) -> list[str]:
    """Close the runs of launches that were killed, and free their places in pools; returns their run ids.

    Without this they would look started forever, and the next run would wait for the place on the GPU that they hold.
    """
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)) if not is_alive(run)]
    for run in dead:
        instance.report_run_failed(run, "The process of this launch was killed; launch again to resume.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


def is_alive(run: dg.DagsterRun) -> bool:
    """Whether an unfinished run has its process; true of runs that no launch started, which Dagster watches itself."""
    name = run.tags.get(LAUNCH_TAG)
    if name is None:
        return True
    machine, process = name.split(" ")[:2]
    if machine == _machine():
        return name == _name(int(process))
    return time.time() - float(run.tags.get(HEARTBEAT_TAG, "0")) < EXPIRY_SECONDS


def _beat(instance: dg.DagsterInstance, name: str, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with suppress(Exception):  # a database that is briefly unavailable ends no launch
            for run in instance.get_runs(dg.RunsFilter(tags={LAUNCH_TAG: name}, statuses=_UNFINISHED)):
                instance.add_run_tags(run.run_id, {HEARTBEAT_TAG: f"{time.time():.0f}"})


def _name(process: int) -> str:
    """Machine, process and the time at which it started, since process ids are used again; empty if it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if process != os.getpid() else f"{_machine()} {process} 0"
    return "" if fields[0] == "Z" else f"{_machine()} {process} {fields[19]}"


def _machine() -> str:
    """What process ids are unique in: the host since it booted, or the container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{Path('/proc/self/ns/pid').readlink().name}"
    return f"{platform.node()}/{os.getpid()}"
