"""`react-pipeline ui`: both user interfaces answer, on loopback only, once over a home, and stop
together.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

import pytest
from support.services import command_lines, free_port

from react_pipeline.extensions.ui.process_groups import listen_to_signals
from react_pipeline.project.project import Project


def fetch(url: str, body: dict[str, str] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        return bytes(answer.read())


def eventually(attempt: Callable[[], bytes], seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.mark.slow
def test_dagster_and_mlflow_answer_and_stop_together(tiny_project: Project) -> None:
    dagster_port, mlflow_port = free_port(), free_port()
    environment = {**os.environ, "DAGSTER_HOME": str(tiny_project.path.parent / "dagster_home")}
    command = [sys.executable, "-m", "react_pipeline", "ui", "--config", str(tiny_project.path)]
    ports = ["--dagster-port", str(dagster_port), "--mlflow-port", str(mlflow_port)]
    log = tiny_project.path.parent / "ui.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*command, *ports],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=listen_to_signals,
        )
    try:
        query = {"query": "{ assetNodes { assetKey { path } } }"}
        answer = eventually(lambda: fetch(f"http://127.0.0.1:{dagster_port}/graphql", query), 120)
        names = {node["assetKey"]["path"][-1] for node in json.loads(answer)["data"]["assetNodes"]}
        assert {
            "corpus",
            "faiss_index",
            "retrieved_set",
            "customized_checkpoint",
            "comparison",
        } <= names
        assert b"MLflow" in eventually(lambda: fetch(f"http://127.0.0.1:{mlflow_port}/"), 120)
        for port in (dagster_port, mlflow_port):
            # An address of this machine that only a server for all addresses answers at.
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), timeout=5)
        # A second one would bring a second daemon, and every run would be asked for twice.
        others = ["--dagster-port", str(free_port()), "--mlflow-port", str(free_port())]
        second = subprocess.run(
            [*command, *others], env=environment, capture_output=True, text=True, timeout=900
        )
        assert second.returncode == 2
        assert f"dagster http://127.0.0.1:{dagster_port}" in second.stderr.replace("\n", " ")
        deadline = time.monotonic() + 180
        while "Ctrl-C stops." not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.5)
        page = f"http://127.0.0.1:{mlflow_port}/#/experiments/1/runs?workflowType=machine_learning"
        assert f"{page}&viewStateShareKey=results" in log.read_text()
        lines = command_lines(running.pid)
        mlflow = next(process for process, line in lines.items() if "mlflow" in line)
        mlflow.kill()
        deadline = time.monotonic() + 60
        while "mlflow ended by SIGKILL" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert "Dagster and its runs are not affected" in " ".join(log.read_text().split())
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGINT)
        code = running.wait(180)
    assert code in (0, 130)
    for port in (dagster_port, mlflow_port):
        with pytest.raises(OSError, match="refused"):
            fetch(f"http://127.0.0.1:{port}/")
