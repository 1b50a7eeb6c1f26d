"""`react-pipeline ui`: both user interfaces answer, on loopback only, once over a home, and stop
together.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.services import answer, command_lines, free_port

from react_pipeline.extensions.ui.servers import listen_to_signals
from react_pipeline.project.project import Project

SECONDS = 600


@pytest.mark.slow
def test_dagster_and_mlflow_answer_and_stop_together(tiny_project: Project) -> None:
    ports = [free_port(), free_port()]
    dagster, mlflow = (f"http://127.0.0.1:{port}" for port in ports)
    environment = {**os.environ, "DAGSTER_HOME": str(tiny_project.path.parent / "dagster_home")}

    def command(dagster: int, mlflow: int) -> list[str]:
        words = f"-m react_pipeline ui --dagster-port {dagster} --mlflow-port {mlflow} --config"
        return [sys.executable, *words.split(), str(tiny_project.path)]

    log = tiny_project.path.parent / "ui.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            command(*ports),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=listen_to_signals,
        )

    def wait_for(words: str) -> str:
        deadline = time.monotonic() + SECONDS
        while words not in (said := " ".join(log.read_text().split())):
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        return said

    try:
        assert answer(f"{dagster}/server_info")[0] == 200
        assert b"MLflow" in answer(f"{mlflow}/")[1]
        for port in ports:
            # An address of this machine that only a server for all addresses answers at.
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port))
        # A second one would bring a second daemon, and every run would be asked for twice.
        others = command(free_port(), free_port())
        second = subprocess.run(others, env=environment, capture_output=True, text=True)
        assert second.returncode == 2
        assert f"dagster {dagster}" in second.stderr.replace("\n", " ")
        page = f"{mlflow}/#/experiments/1/runs?workflowType=machine_learning"
        assert f"{page}&viewStateShareKey=results" in wait_for("Ctrl-C stops.")
        lines = command_lines(running.pid)
        next(process for process, line in lines.items() if "mlflow" in line).kill()
        assert "Dagster and its runs are not affected" in wait_for("mlflow ended by SIGKILL")
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGINT)
        code = running.wait(SECONDS)
    assert code in (0, 130)
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
