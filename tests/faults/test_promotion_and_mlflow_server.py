"""FAULTS 29: a verdict while MLflow's server is down, reported by the server that comes up
later.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.promotion import outcomes, result
from support.services import free_port, mlflow_server

from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide, roll_back
from react_pipeline.tracking import log
from react_pipeline.tracking.log import Tracking


@pytest.mark.slow
def test_verdicts_reach_a_server_that_was_down(
    make_project: Callable[..., Project],
    mlflow_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "_unreachable_until", {})
    monkeypatch.setattr(log, "COOLDOWN_SECONDS", 0.0)
    database = f"sqlite:///{shutil.copy(mlflow_database, tmp_path / 'server.db')}"
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    registry = Tracking(uri, "tiny")
    project = make_project(methods=["base", "gated-image"])
    result(project, "shapes", "base", outcomes(100))
    result(project, "shapes", "gated-image", outcomes(140))
    assert registry.log_artifact(project, decide(project, "shapes")) is None
    client = MlflowClient(uri, uri)
    with mlflow_server(database, tmp_path, port):
        assert registry.sync(project) is not None
        version = client.get_model_version_by_alias("react-shapes", "champion")
        assert version.tags["method"] == "gated-image"
        assert "+20.0 points" in version.description
    assert registry.log_artifact(project, roll_back(project, "shapes", "broken")) is None
    with mlflow_server(database, tmp_path, port):
        assert registry.sync(project) is not None
        model = client.get_registered_model("react-shapes")
        assert "champion" not in model.aliases
        (version,) = client.search_model_versions("name = 'react-shapes'")
        assert version.tags["verdict"] == "former champion"
