"""FAULTS 1, 3, 37, 39, 45: builders that are killed, next to others, `prune` and a reader.

`torture` explains how. A short form is for each day; each mode of the long form kills 200 times.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("torture.py")


def torture(kind: str, locks: str, pruning: str, kills: int) -> None:
    command = [sys.executable, str(SCRIPT), kind, locks, pruning, str(kills), "1"]
    subprocess.run(command, check=True, timeout=300 + 20 * kills)


@pytest.mark.parametrize("locks", ["real", "useless"])
def test_a_few_kills_tear_and_lose_nothing(locks: str) -> None:
    torture("folder", locks, "fair", 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "bucket"])
@pytest.mark.parametrize("locks", ["real", "useless"])
@pytest.mark.parametrize("pruning", ["fair", "brutal"])
def test_hundreds_of_kills_tear_and_lose_nothing(kind: str, locks: str, pruning: str) -> None:
    torture(kind, locks, pruning, 200)
