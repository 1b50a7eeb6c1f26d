"""A variant and two seeds, from partitions to the comparison and MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.launch import dagster_home
from support.tracking import runs_of

from react_pipeline.assets.launch import materialize
from react_pipeline.extensions.automation.survey import survey
from react_pipeline.project.project import Project
from react_pipeline.tracking.log import Tracking

TRAINED = ["head", "head-seed1", "head-control", "head-seed1-control"]


@pytest.mark.slow
@pytest.mark.operations
def test_all_of_them_are_trained_and_compared(
    make_project: Callable[..., Project], tmp_path: Path, mlflow_database: Path
) -> None:
    head = {"method": "linear-head", "learning_rate": 5e-4, "interpolation": 1.0}
    project = make_project(methods=["base"], variants={"head": head}, seeds=[0, 1])
    shutil.copy(mlflow_database, tmp_path)
    with dagster_home(tmp_path / "home"):
        summary = materialize("*", ["shapes"], (), project.path)
    assert not summary.failed and not summary.skipped
    store = project.store
    made = [store.current("customized_checkpoint", f"shapes/{name}") for name in TRAINED]
    assert [one.manifest["config"]["seed"] for one in made] == [0, 1, 0, 1]
    assert len({one.file("head.safetensors").read_bytes() for one in made}) == 4
    table = pd.read_parquet(store.current("comparison", "shapes").file("table.parquet"))
    rows = table.set_index("method")
    assert list(rows.index) == ["base", *TRAINED] and rows.loc["head", "seeds"] == 2
    values = rows.loc[["head", "head-seed1"], "top1"]
    shown = rows.loc["head", ["top1_mean", "top1_std"]].tolist()
    assert shown == pytest.approx([values.mean(), values.std()])
    assert not survey(project, ["shapes"]).tasks
    (run,) = runs_of(Tracking(project), asset="domain_results", method="head")
    assert {"seeds", "top1_mean", "top1_std", "delta_top1_std"} <= set(run.data.metrics)
