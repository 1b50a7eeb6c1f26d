from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_project
from mlflow import MlflowClient
from support.elevater import write_elevater
from support.launch import dagster_home, metadata_of

from react_pipeline.assets import to_partition_key
from react_pipeline.assets.launch import materialize, open_instance
from react_pipeline.extensions.elevater.assets import count_pairs
from react_pipeline.extensions.elevater.features import digests_of_test_images
from react_pipeline.project import Project
from react_pipeline.store import Inputs

DATASETS = ["fer-2013", "mnist", "dtd"]
METHODS = ("base", "gated-image", "linear-head")


@pytest.mark.slow
@pytest.mark.operations
def test_a_launch_builds_checks_shows_and_compares_the_benchmark(
    tmp_path: Path, tiny_checkpoint: Path, drawings: Path, mlflow_database: Path
) -> None:
    """The whole lineage of one domain, with two of three data sets there."""
    write_elevater(tmp_path / "data", only=DATASETS[:2])
    elevater = {"root": "data", "datasets": DATASETS}
    project = write_project(tmp_path, tiny_checkpoint, drawings, elevater=elevater)
    shutil.copy(mlflow_database, tmp_path)
    with dagster_home(tmp_path / "home"):
        first = materialize("*", ["shapes"], METHODS, project.path)
        second = materialize("group:benchmark", ["shapes"], METHODS, project.path)
        with open_instance(project) as instance:
            key = to_partition_key("shapes/gated-image")
            shown = metadata_of(instance, "benchmark_results", key)
    assert not first.failed and not first.skipped
    # Features and results of the base and the method with an image tower, and their comparison.
    assert (second.built, second.reused) == (0, 5)
    artifact = project.store.current("benchmark_results", "shapes/gated-image")
    run = MlflowClient(project.config.tracking_uri).get_run(str(shown["mlflow_run_id"]))
    for name in ("mean.zero-shot", "value.zero-shot.mnist", "datasets_evaluated"):
        assert shown[name] == run.data.metrics[name]
    assert shown["mean.zero-shot"] == artifact.counts["mean"]["zero-shot"]
    assert "dtd" in str(shown["table"]) and "2 of 20" in str(shown["table"])

    artifact = project.store.current("benchmark_comparison", "shapes")
    assert artifact.counts["methods"] == ["gated-image"] and not artifact.counts["skipped"]
    assert artifact.counts["datasets_compared"] == {"gated-image.zero-shot": 2}
    table = pd.read_parquet(artifact.file("table.parquet"))
    rows = table[table["status"] == "ok"]
    assert set(rows["dataset"]) == {"fer-2013", "mnist"}
    mean = artifact.counts["mean_delta"]["gated-image.zero-shot"]
    assert mean == pytest.approx(rows["delta"].mean())


def test_training_pair_that_is_a_test_image_is_counted(tiny_project: Project) -> None:
    def write(directory: Path, _: object) -> dict[str, int]:
        pairs = pd.DataFrame({"image_sha256": ["ab" * 32, "cd" * 32, "ef" * 32]})
        pairs.to_parquet(directory / "pairs.parquet")
        (directory / "mnist").mkdir()
        for split, byte in (("test", 0xAB), ("train", 0xCD)):
            digests = np.full((1, 32), byte, np.uint8)
            np.save(directory / "mnist" / f"{split}_sha256.npy", digests)
        return {}

    made = tiny_project.store.build(Inputs("retrieved_set", "shapes", {}, {}, "1"), write)
    assert count_pairs(made, digests_of_test_images(made)) == 1
