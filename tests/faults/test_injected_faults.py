"""FAULTS 1, 2, 39, 50, 57: every system call of a lineage that may fail, and power losses behind
any of them.

`harness` explains how. What must hold: nothing that is visible is torn, and the next run ends with
what an undisturbed one ends with: fingerprints, and the bytes of every file that holds no times.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import shim
from harness.campaign import Campaign, Harness

pytestmark = pytest.mark.skipif(bool(shim.missing()), reason=shim.missing())

TRAINED = 8
"""Tasks up to the first training: the sample need not load what draws tables."""

SAMPLE = [
    (0, "write", 3, "torn"),
    (0, "lock", 1, "ENOLCK"),
    (0, "read", 5, "EIO"),
    (1, "fsync", 4, "kill"),
    (1, "create", 4, "EDQUOT"),
    (2, "rename", 5, "rot"),
    (2, "write", 20, "ENOSPC"),
    (2, "fsync", 9, "kill"),
    (3, "write", 12, "torn"),
    (3, "map", 1, "EIO"),
    (4, "mkdir", 2, "EDQUOT"),
    (4, "open", 9, "EINTR"),
    (5, "rename", 4, "rot"),
    (5, "write", 30, "cut"),
    (
        5,
        "unlink",
        13,
        "EIO",
    ),  # a part of the search, which was published where it could not be removed
    (6, "rename", 3, "kill"),
    (7, "rename", 4, "rot"),
    (7, "resize", 1, "ENOSPC"),
    (7, "write", 12, "torn"),
    (7, "open", 30, "EMFILE"),
]
"""Task, kind of call, its number, and what is done to it."""


@contextmanager
def harness(tasks: int) -> Iterator[Harness]:
    memory = Path("/dev/shm")  # noqa: S108 - faster than a disk
    folder = Path(tempfile.mkdtemp("-faults", dir=memory if memory.exists() else None))
    try:
        with Harness(folder, tasks) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def survived(campaign: Campaign) -> bool:
    print(*campaign.ends.items(), *campaign.problems, sep="\n")
    return not campaign.problems


@pytest.mark.slow
@pytest.mark.operations
def test_sampled_faults_and_power_losses_leave_nothing_torn() -> None:
    with harness(TRAINED) as found:
        campaign = found.inject(SAMPLE, to_end_every=20)
        assert survived(campaign)
        assert {"finished", "killed", "error of the project"} <= (
            ends := {end for _, _, end in campaign.ends}
        )
        assert "not reached" not in ends
        assert survived(found.lose_power(4))
        unsafe = found.lose_power(2, fsync=False)
        assert unsafe.problems, "it finds what fsync is for"


@pytest.mark.slow
def test_thousands_of_faults_leave_nothing_torn() -> None:
    with harness(15) as found:
        # No multiple of how many faults a call has: each is met.
        campaign = found.inject(list(found.points())[::11], to_end_every=10)
    assert survived(campaign)
    assert campaign.ends.total() >= 2_000


@pytest.mark.slow
def test_hundreds_of_power_losses_leave_nothing_torn() -> None:
    with harness(15) as found:
        assert survived(found.lose_power(240))
