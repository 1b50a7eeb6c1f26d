"""End to end, as a user: the command line on a corpus and domains of one's own, then every place
that shows results.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from react_pipeline.project.project import Project

Make = Callable[..., Project]
METHODS = ("base", "gated-image", "gated-image-control", "gda")


def command(project: Project, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments_of(project, *arguments),
        env=environment(project),
        capture_output=True,
        text=True,
        **options,
    )


def arguments_of(project: Project, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "react_pipeline", *arguments, "--config", str(project.path)]


def environment(project: Project) -> dict[str, str]:
    return {
        **os.environ,
        "DAGSTER_HOME": str(project.path.parent / "dagster_home"),
        "COLUMNS": "200",
    }


def materialize(project: Project) -> subprocess.CompletedProcess[str]:
    chosen = [part for method in METHODS for part in ("--method", method)]
    return command(project, "materialize", "--domain", "shapes", *chosen)


def results(project: Project) -> dict[str, dict[str, Any]]:
    done = command(project, "results", "--format", "json")
    assert done.returncode == 0, done.stderr
    return {row["method"]: row for row in json.loads(done.stdout) if row["domain"] == "shapes"}


@pytest.mark.slow
@pytest.mark.operations
def test_killed_and_started_again_it_ends_with_the_same_numbers(
    make_project: Make, tmp_path: Path
) -> None:
    training = {"last_k_layers": 2, "steps": 30, "batch_size": 8, "checkpoint_every": 5}
    project = make_project(customization={"defaults": training})
    store = project.config.store
    for reached in ("corpus_embeddings", "customized_checkpoint"):
        chosen = [part for method in METHODS for part in ("--method", method)]
        started = subprocess.Popen(
            arguments_of(project, "materialize", "--domain", "shapes", *chosen), env=environment(project),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        # Killed as soon as this step has begun to write.
        while (
            not list((store / ".scratch").glob(f"{reached}--*/*")) and time.monotonic() < deadline
        ):
            assert started.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        os.killpg(started.pid, signal.SIGKILL)
        assert started.wait() == -signal.SIGKILL
        assert not list((store / reached).rglob("manifest.json"))
    done = materialize(project)
    assert done.returncode == 0, done.stdout + done.stderr
    interrupted = results(project)

    whole = tmp_path / "whole"
    whole.mkdir()
    raw = {
        **yaml.safe_load(project.path.read_text()),
        "store": str(whole / "store"),
        "domains": str(tmp_path / "domains"),
    }
    (whole / "pipeline.yaml").write_text(yaml.safe_dump(raw))
    undisturbed = Project.load(whole / "pipeline.yaml")
    assert materialize(undisturbed).returncode == 0
    for method, row in results(undisturbed).items():
        for field in ("top1", "top5", "mean_per_class", "pairs", "fingerprint"):
            assert row[field] == interrupted[method][field]
