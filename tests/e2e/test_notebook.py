"""The notebook of the examples, run cell after cell: a model made from class names labels
pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_the_notebook_labels_pictures_better_than_the_base(tmp_path: Path) -> None:
    cells = json.loads((REPOSITORY / "examples" / "demo.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = "\n".join(
        [*code, "import json", "print(json.dumps(right))", "assert len(learned) > 2"]
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    for name in ("DAGSTER_HOME", "REACT_PIPELINE_CONFIG"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    right = json.loads(done.stdout.splitlines()[-1])
    assert right["gda"] > right["base"] > 0
