"""FAULTS 1, 3, 37, 39, 45: builders that are killed, next to others, `prune` and a reader.

`torture` explains how. A short form is for each day; each mode of the long form kills 200 times.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("torture.py")
LOCKS = ("real", "useless")
SHORT = [("folder", locks, "fair", 8) for locks in LOCKS]
LONG = product(("folder", "bucket"), LOCKS, ("fair", "brutal"), [200])


@pytest.mark.parametrize(
    ("kind", "locks", "pruning", "kills"),
    [*SHORT, *(pytest.param(*mode, marks=pytest.mark.slow) for mode in LONG)],
)
def test_kills_tear_and_lose_nothing(kind: str, locks: str, pruning: str, kills: int) -> None:
    command = [sys.executable, str(SCRIPT), kind, locks, pruning, str(kills), "1"]
    subprocess.run(command, check=True, timeout=300 + 20 * kills)
