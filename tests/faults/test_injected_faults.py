"""FAULTS 1, 2, 39, 50: every system call of a lineage that may fail, or in which it is killed.

`harness` explains how. What must hold: nothing that is visible is torn, and the next run ends with
what an undisturbed one ends with: fingerprints, and the bytes of every file that holds no times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from harness import shim

pytestmark = pytest.mark.skipif(bool(shim.missing()), reason=shim.missing())

CAMPAIGN = Path(__file__).parent / "harness" / "campaign.py"
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
    (5, "unlink", 13, "EIO"),  # of a part of the search, which was published all the same
    (6, "rename", 3, "kill"),
    (7, "rename", 4, "rot"),
    (7, "resize", 1, "ENOSPC"),
    (7, "write", 12, "torn"),
    (7, "open", 30, "EMFILE"),
]
"""Task, kind of call, its number, and what is done to it."""


def outcome(tasks: int, points: object, to_end_every: int) -> Counter[tuple[str, str, str]]:
    """Run a campaign, which leaves nothing torn; gives how often each fault ended in which way."""
    memory = Path("/dev/shm")  # noqa: S108 - faster than a disk
    place = memory if memory.exists() else None
    with tempfile.TemporaryDirectory("-faults", dir=place) as folder:
        words = [folder, str(tasks), json.dumps(points), str(to_end_every)]
        environment = {**shim.environment(Path(folder)), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, str(CAMPAIGN), *words], env=environment, check=True)
        found = json.loads(Path(folder, "outcome.json").read_text())
    print(*found["ends"], *found["problems"], sep="\n")
    assert not found["problems"]
    return Counter({(kind, fault, end): count for kind, fault, end, count in found["ends"]})


@pytest.mark.slow
@pytest.mark.operations
def test_sampled_faults_leave_nothing_torn() -> None:
    ends = {end for _, _, end in outcome(TRAINED, SAMPLE, 20)}
    assert {"finished", "killed", "error of the project"} <= ends and "not reached" not in ends


@pytest.mark.slow
def test_thousands_of_faults_leave_nothing_torn() -> None:
    # No multiple of how many faults a call has: each is met.
    assert outcome(15, 11, 10).total() >= 2_000
