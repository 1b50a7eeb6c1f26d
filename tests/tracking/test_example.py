"""The example for others: Dagster assets with MLflow runs, models and a comparison."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "dagster_mlflow.py"


@pytest.fixture(autouse=True)
def _own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.slow
def test_example_compares_methods_and_names_a_champion(
    mlflow_database: Path, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(mlflow_database.read_bytes())
    environment = {**os.environ, "DAGSTER_HOME": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, env=environment, check=True)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    runs = mlflow.search_runs(experiment_names=["wine"], filter_string="tags.asset = 'model'")
    top1 = runs.set_index("params.method")["metrics.top1"]
    assert sorted(top1.index) == ["bayes", "control", "logistic"]
    assert top1["logistic"] > top1["control"]
    assert runs["tags.dagster.run_id"].nunique() == 3
    client = MlflowClient(uri, uri)
    (version,) = client.search_model_versions("name = 'wine'")
    assert client.get_model_version_by_alias("wine", "champion").version == version.version
    best = client.get_run(version.run_id)
    assert best.data.params["method"] == top1.idxmax()
    contexts = {entry.tags[0].value for entry in best.inputs.dataset_inputs}
    assert contexts == {"training", "evaluation"}
    loaded = mlflow.pyfunc.load_model("models:/wine@champion")
    names = [column.name for column in loaded.metadata.signature.inputs]
    assert len(loaded.predict(pd.DataFrame([[1.0] * len(names)], columns=names))) == 1
