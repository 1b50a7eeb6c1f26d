"""FAULTS 52: a password that a whole run needs is found in nothing that the run leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.services import answer, command_lines, free_port, postgres, running

from react_pipeline.project.project import Project
from react_pipeline.settings.files import TRACKING_VARIABLE

SECRET = "planted-5ecret"  # noqa: S105 - of a test


@pytest.mark.slow
@pytest.mark.operations
def test_a_planted_password_is_nowhere_to_read(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    training = {
        "last_k_layers": 2,
        "steps": 4,
        "batch_size": 8,
        "checkpoint_every": 2,
        "processes": 2,
        "workers": 0,
    }
    project = make_project(customization={"defaults": training})
    shown: dict[str, str] = {}
    with postgres(tmp_path / "server") as server:
        uri = (
            server.replace("postgresql://react@", f"postgresql+psycopg2://react:{SECRET}@")
            + "/mlflow"
        )
        environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home"), TRACKING_VARIABLE: uri}
        environment |= {"MLFLOW_TRACKING_PASSWORD": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}

        def run(*arguments: str) -> None:
            command = [
                sys.executable,
                "-m",
                "react_pipeline",
                *arguments,
                "--config",
                str(project.path),
            ]
            done = subprocess.run(
                command, env=environment, cwd=tmp_path, capture_output=True, text=True
            )
            shown[" ".join(arguments)] = done.stdout + done.stderr
            assert done.returncode == 0, done.stdout + done.stderr

        run("materialize", "--domain", "shapes", "--method", "base", "--method", "gated-image")
        run("doctor")
        run("status")
        run("results")
        dagster, mlflow = free_port(), free_port()
        ports = ["--dagster-port", str(dagster), "--mlflow-port", str(mlflow)]
        ui = [sys.executable, "-m", "react_pipeline", "ui", *ports, "--config", str(project.path)]
        with running(ui, tmp_path / "ui.log", env=environment) as servers:
            assert answer(f"http://127.0.0.1:{dagster}/server_info")[0] == 200
            status, page = answer(
                f"http://127.0.0.1:{mlflow}/api/2.0/mlflow/experiments/search?max_results=9"
            )
            assert status == 200 and project.config.project.encode() in page
            shown["arguments"] = "\n".join(map(" ".join, command_lines(servers.pid).values()))
            shown["page"] = page.decode()
    assert "mlflow server" in shown["arguments"] and "…@127.0.0.1" in shown["doctor"]
    assert not [name for name, text in shown.items() if SECRET in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not (tmp_path / "mlruns").exists()
    assert {"dashboard.html", "ui.log", "postgres.log", "runs.db"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
