"""SIGINT and SIGTERM at random points of a build: each ends it, and what is built in the end is
whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PIPELINE

from react_pipeline.project.project import Project

STOPS = Path(__file__).parent / "harness" / "stops.py"
TRIALS = 24


@pytest.mark.slow
def test_a_build_ends_by_every_stop_and_resumes(
    make_project: Callable[..., Project], mlflow_database: Path, tmp_path: Path
) -> None:
    defaults = {**PIPELINE["customization"]["defaults"], "steps": 60, "checkpoint_every": 10}
    project = make_project(customization={"defaults": defaults})
    shutil.copy(mlflow_database, tmp_path)
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    command = [sys.executable, str(STOPS), str(project.path), "--trials", str(TRIALS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{TRIALS} stops, 0 wrong", done.stdout, re.MULTILINE)

    build = [sys.executable, "-m", "react_pipeline", "materialize", "--domain", "shapes"]
    build += ["--method", "base", "--method", "gated-image"]
    finished = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    lines = (
        project.store.current("customized_checkpoint", "shapes/gated-image")
        .file("metrics.jsonl")
        .read_text()
    )
    assert [json.loads(line)["step"] for line in lines.splitlines()] == list(range(60))
    assert not [error for _, error in project.store.verify() if error is not None]
