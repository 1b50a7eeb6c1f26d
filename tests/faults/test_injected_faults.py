"""FAULTS 1, 2, 39, 50, 57: every system call of a lineage that may fail, and power losses behind
any of them.

`harness` explains how. What must hold: nothing that is visible is torn, and the next run ends with
what an undisturbed one ends with: fingerprints, and the bytes of every file that holds no times.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import shim
from support.processes import fast_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shim.CAN_BE_BUILT, reason="the shim needs glibc and a C compiler"),
]

SCRIPT = Path(shim.__file__).with_name("campaign.py")


@pytest.mark.parametrize(
    "kind", [pytest.param("sample", marks=pytest.mark.operations), "faults", "power"]
)
def test_faults_and_power_losses_leave_nothing_torn(kind: str) -> None:
    with fast_folder() as name:
        folder = Path(name)
        env = {**shim.environment(folder), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, str(SCRIPT), kind, str(folder)], env=env, check=True)
