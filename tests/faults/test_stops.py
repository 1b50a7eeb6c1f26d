"""Signals at random points of a build: each ends it at once, and in the end it has the numbers of
an undisturbed one.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import PIPELINE

from react_pipeline.project.project import Project
from react_pipeline.stop import LINE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
TRIALS, STEPS = 8, 60
HANG_SECONDS = 600
OVER = re.compile(r"\d+ built, \d+ as before")
FIELDS = ("top1", "top5", "mean_per_class", "pairs")
BUILD = ["materialize", "--domain", "shapes"]
BUILD += [word for method in ("base", "gated-image", "gda") for word in ("--method", method)]


def start(project: Project, *arguments: str, output: Any) -> subprocess.Popen[str]:
    folder = project.path.parent
    return subprocess.Popen(
        [sys.executable, "-m", "react_pipeline", *arguments, "--config", str(project.path)],
        env={**os.environ, "DAGSTER_HOME": str(folder / "home"), "COLUMNS": "200"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(project: Project, *arguments: str) -> str:
    done = start(project, *arguments, output=subprocess.PIPE)
    printed, _ = done.communicate()
    assert done.returncode == 0, printed
    return printed


def results(project: Project) -> dict[str, list[Any]]:
    rows = json.loads(run(project, "results", "--format", "json"))
    found = {row["method"]: row for row in rows if row["domain"] == "shapes"}
    made = {name: project.store.current("domain_results", f"shapes/{name}") for name in found}
    return {
        name: [made[name].fingerprint, *(row[field] for field in FIELDS)]
        for name, row in found.items()
    }


def wait_for_watch(build: subprocess.Popen[str]) -> None:
    """Until the program catches SIGTERM: before, a signal has the effect that the shell chose."""
    caught, bit = 0, 1 << (signal.SIGTERM - 1)
    while build.poll() is None and not caught & bit:
        lines = Path(f"/proc/{build.pid}/status").read_text().splitlines()
        caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        time.sleep(0.01)


def is_of(session: int, process: psutil.Process) -> bool:
    """Whether a process lives in a session."""
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False


@pytest.mark.slow
@pytest.mark.operations
def test_a_build_ends_by_every_signal_and_resumes(
    make_project: Callable[..., Project], mlflow_database: Path, tmp_path: Path
) -> None:
    defaults = {**PIPELINE["customization"]["defaults"], "steps": STEPS, "checkpoint_every": 10}
    project = make_project(customization={"defaults": defaults})
    whole = tmp_path / "whole"
    whole.mkdir()
    for folder in (tmp_path, whole):
        shutil.copy(mlflow_database, folder)
    fields = {"store": "store", "domains": str(project.config.domains)}
    raw = yaml.safe_load(project.path.read_text())
    (whole / "pipeline.yaml").write_text(yaml.safe_dump({**raw, **fields}))
    undisturbed = Project.load(whole / "pipeline.yaml")
    began = time.monotonic()
    run(undisturbed, *BUILD)
    span = time.monotonic() - began

    chance, done, output = random.Random(0), 0, tmp_path / "output"  # noqa: S311
    while done < TRIALS:
        number = SIGNALS[done % len(SIGNALS)]
        with output.open("w") as file:
            build = start(project, *BUILD, output=file)
        wait_for_watch(build)
        delay = chance.uniform(0, span)
        with suppress(subprocess.TimeoutExpired):
            build.wait(delay)
        with suppress(ProcessLookupError):
            (os.killpg if number == signal.SIGKILL else os.kill)(build.pid, number)
        code = build.wait(HANG_SECONDS)
        printed = output.read_text(errors="replace")
        if OVER.search(printed):  # before its signal, which does not count
            span *= 0.8
            for made in (project.config.store, tmp_path / "home"):
                shutil.rmtree(made, ignore_errors=True)
            continue
        done += 1
        print(done, number.name, f"after {delay:.1f} s")
        if number == signal.SIGKILL:
            assert code == -number
        else:
            assert (code, printed.count(LINE)) == (128 + number, 1), printed
            # SQLAlchemy logs, and goes on, where a stop comes as it closes a connection.
            logged = printed.count("ERROR: Exception ")
            assert printed.count("Traceback") == logged, printed
            assert "Exception ignored" not in printed, printed
        until = time.monotonic() + HANG_SECONDS
        while left := [one.pid for one in psutil.process_iter() if is_of(build.pid, one)]:
            assert time.monotonic() < until, f"left {left}"
            time.sleep(0.1)

    run(project, *BUILD)
    log = project.store.current("customized_checkpoint", "shapes/gated-image").file("metrics.jsonl")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [*range(STEPS)]
    assert not [error for _, error in project.store.verify() if error is not None]
    assert results(project) == results(undisturbed) and len(results(project)) == 3
