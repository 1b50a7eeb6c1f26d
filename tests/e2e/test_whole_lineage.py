"""End to end, as a user: what the command line builds although it is killed, twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.services import command
from support.stages import run_corpus
from support.training import FIELDS

from react_pipeline.evaluation.all_domains import comparison_table
from react_pipeline.lineage import run
from react_pipeline.project import Project

METHODS = ("base", "gated-image")


@pytest.mark.slow
@pytest.mark.operations
def test_killed_and_started_again_it_ends_with_the_same_numbers(
    make_project: Callable[..., Project], mlflow_database: Path
) -> None:
    training = {"defaults": {**FIELDS, "steps": 12}}
    project = make_project(customization=training)
    folder, store = project.path.parent, project.config.store
    shutil.copy(mlflow_database, folder)
    methods = [word for method in METHODS for word in ("--method", method)]
    materialize = command(project, "materialize", "--domain", "shapes", *methods)
    environment = {**os.environ, "DAGSTER_HOME": str(folder / "dagster_home")}
    for reached in ("corpus_embeddings", "customized_checkpoint"):
        with (folder / "log").open("wb") as log:
            started = subprocess.Popen(
                materialize, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        # Killed as soon as this step has begun to write.
        while (
            not list((store / ".scratch").glob(f"{reached}--*/*")) and time.monotonic() < deadline
        ):
            assert started.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        os.killpg(started.pid, signal.SIGKILL)
        assert started.wait() == -signal.SIGKILL
        assert not list((store / reached).rglob("manifest.json"))
    done = subprocess.run(materialize, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    undisturbed = make_project(store="undisturbed", customization=training)
    run_corpus(undisturbed)
    for stage in ("evaluation_set", "retrieved_set"):
        run(undisturbed, stage, "shapes")
    run(undisturbed, "customized_checkpoint", "shapes/gated-image")
    for method in METHODS:
        run(undisturbed, "domain_results", f"shapes/{method}")
    run(undisturbed, "comparison", "shapes")
    fields = ["method", "top1", "top5", "mean_per_class", "pairs", "fingerprint"]
    tables = (comparison_table(one, ["shapes"])[fields] for one in (project, undisturbed))
    pd.testing.assert_frame_equal(*tables)
