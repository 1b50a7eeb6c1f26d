"""How many processes decode images: `workers: auto`."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")

Workers = Annotated[int, Field(ge=0)] | Literal["auto"]


def usable_cores() -> int:
    """Return the cores that this process may use: those of its affinity, or of the container if
    these are fewer.
    """
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such file; no limit: "max"
        quota, period = map(int, CPU_LIMIT.read_text().split())
        cores = min(cores, max(quota // period, 1))
    return cores


def count_workers(workers: int | str, processes: int = 1) -> int:
    """Return the decoding processes of each of `processes`; `auto` leaves one core to compute."""
    return max(usable_cores() // processes - 1, 1) if workers == "auto" else int(workers)
