"""A variant and two seeds, from partitions to the comparison and MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import write_project
from support.launch import dagster_home
from support.tracking import runs_of

from react_pipeline.assets.launch import Summary, materialize
from react_pipeline.extensions.automation.survey import survey
from react_pipeline.project.project import Project
from react_pipeline.tracking.log import Tracking

TRAINED = ["head", "head-seed1", "head-control", "head-seed1-control"]


@pytest.fixture(scope="module")
def launched(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    mlflow_database: Path,
) -> Iterator[tuple[Project, Summary]]:
    directory = tmp_path_factory.mktemp("variants")
    variants: dict[str, dict[str, Any]] = {
        "head": {"method": "linear-head", "learning_rate": 5e-4, "interpolation": 1.0},
    }
    project = write_project(
        directory, tiny_checkpoint, drawings, methods=["base"], variants=variants, seeds=[0, 1]
    )
    shutil.copy(mlflow_database, directory)
    with dagster_home(directory / "home"):
        yield project, materialize("*", ["shapes"], (), project.path)


@pytest.mark.slow
@pytest.mark.operations
def test_all_of_them_are_trained_and_compared(launched: tuple[Project, Summary]) -> None:
    project, summary = launched
    assert not summary.failed and not summary.skipped
    checkpoints = {
        name: project.store.current("customized_checkpoint", f"shapes/{name}") for name in TRAINED
    }
    assert {name: one.manifest["config"]["seed"] for name, one in checkpoints.items()} == {
        name: int("seed1" in name) for name in TRAINED
    }
    heads = {one.file("head.safetensors").read_bytes() for one in checkpoints.values()}
    assert len(heads) == 4
    table = pd.read_parquet(project.store.current("comparison", "shapes").file("table.parquet"))
    rows = table.set_index("method")
    assert list(rows.index) == ["base", *TRAINED]
    values = rows.loc[["head", "head-seed1"], "top1"]
    assert rows.loc["head", "seeds"] == 2
    assert rows.loc["head", "top1_mean"] == pytest.approx(values.mean())
    assert rows.loc["head", "top1_std"] == pytest.approx(values.std())
    assert not survey(project, ["shapes"]).tasks
    (run,) = runs_of(Tracking(project), asset="domain_results", method="head")
    assert {"seeds", "top1_mean", "top1_std", "delta_top1_std"} <= set(run.data.metrics)
