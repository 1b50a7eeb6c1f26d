"""FAULTS 29: a verdict while MLflow's server is down, reported by the server that comes up
later.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.promotion import outcomes, result

from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide, roll_back
from react_pipeline.tracking import queue
from react_pipeline.tracking.log import Tracking
from react_pipeline.tracking.runs import Runs

START_SECONDS = 120


@contextmanager
def server(directory: Path, port: int) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{directory / 'server.db'}"]
    command += ["--default-artifact-root", (directory / "files").as_uri()]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(timeout=180)


@pytest.mark.slow
def test_verdicts_reach_a_server_that_was_down(
    make_project: Callable[..., Project],
    mlflow_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue, "_unreachable_until", {})
    monkeypatch.setattr(queue, "COOLDOWN_SECONDS", 0.0)
    shutil.copy(mlflow_database, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    registry = Tracking(Runs(uri, "tiny"))
    project = make_project(methods=["base", "gated-image"])
    result(project, "shapes", "base", outcomes(100))
    result(project, "shapes", "gated-image", outcomes(140))
    assert registry.apply(project, decide(project, "shapes")).waits == 1
    client = MlflowClient(uri, uri)
    with server(tmp_path, port):
        assert registry.apply(project, patient=True).waits == 0
        version = client.get_model_version_by_alias("react-shapes", "champion")
        assert version.tags["method"] == "gated-image"
        assert "+20.0 points" in version.description
    assert registry.apply(project, roll_back(project, "shapes", "broken")).waits == 1
    with server(tmp_path, port):
        assert registry.apply(project, patient=True).waits == 0
        model = client.get_registered_model("react-shapes")
        assert "champion" not in model.aliases
        (version,) = client.search_model_versions("name = 'react-shapes'")
        assert version.tags["verdict"] == "former champion"
