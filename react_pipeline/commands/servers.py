"""Servers: the Dagster and MLflow user interfaces as child processes, bound to loopback.

Belongs here: starting them, waiting until they answer, and stopping them together. Does not belong here: what
they show.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from react_pipeline.errors import InputError, ReactError
from react_pipeline.project import CONFIG_VARIABLE, Project
from react_pipeline.tracking import Tracking
from react_pipeline.tracking.notes import DAGSTER_VARIABLE, MLFLOW_VARIABLE

HOST = "127.0.0.1"
"""Neither server asks for a password, so neither is opened to the network."""

START_SECONDS = 180.0
STOP_SECONDS = 10.0


@dataclass
class Server:
    """A running user interface: `url` is where a browser finds it, `log` what it writes."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serve(project: Project, repository: Path, dagster_port: int, mlflow_port: int) -> Iterator[list[Server]]:
    """Start both user interfaces and stop them on leaving; MLflow's only if the tracking URI is a local database.

    Raises:
        InputError: If a port is taken.
        ReactError: If one ends, or does not answer within `START_SECONDS`.
    """
    uri = Tracking.of(project).uri
    home = Path(os.environ.get("DAGSTER_HOME", repository / "dagster_home"))
    home.mkdir(parents=True, exist_ok=True)
    dagster = ["-m", "dagster", "dev", "-w", "workspace.yaml", "-h", HOST, "-p", str(dagster_port)]
    commands: list[tuple[str, int, Sequence[str]]] = [("dagster", dagster_port, dagster)]
    if not uri.startswith("http"):
        Tracking.of(project).prepare()
        mlflow = ["-m", "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
        commands.append(("mlflow", mlflow_port, [*mlflow, "--backend-store-uri", uri]))
    for name, port, _ in commands:
        _require_free(name, port)
    environment = {**os.environ, "DAGSTER_HOME": str(home), CONFIG_VARIABLE: str(project.path)}
    environment.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # So that runs of MLflow and of Dagster link to one another.
    environment[DAGSTER_VARIABLE] = f"http://{HOST}:{dagster_port}"
    if not uri.startswith("http"):
        environment[MLFLOW_VARIABLE] = f"http://{HOST}:{mlflow_port}"
    logs = project.config.store.parent / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    servers: list[Server] = []
    try:
        end_with_the_terminal()
        for name, port, arguments in commands:
            servers.append(_start(name, port, arguments, logs / f"{name}.log", repository, environment))
        for server in servers:
            _wait(server)
        yield servers
    finally:
        stop(servers)


def end_with_the_terminal() -> None:
    """A closed terminal stops the servers as Ctrl-C does: being leaders of their own sessions they would live on."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # under nohup it stays ignored
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def watch(servers: Sequence[Server]) -> None:
    """Return only when one of the servers has ended.

    Raises:
        ReactError: Naming it, with the end of its log.
    """
    while True:
        for server in servers:
            _require_running(server)
        time.sleep(1)


def stop(servers: Sequence[Server]) -> None:
    """End the servers with all the processes they started, those of a server that was killed itself included."""
    for server in servers:
        if server.process.poll() is not None:
            # Nobody told its children to end. A group outlives its leader, and its number is not given away meanwhile.
            with suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGTERM)
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        for server in servers:
            if server.process.poll() is None:
                os.killpg(server.process.pid, wanted)
        while time.monotonic() < deadline and any(server.process.poll() is None for server in servers):
            time.sleep(0.1)


def _start(
    name: str, port: int, arguments: Sequence[str], log: Path, directory: Path, environment: dict[str, str]
) -> Server:
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            [sys.executable, *arguments],
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that all its children can be stopped with it
        )
    return Server(name, f"http://{HOST}:{port}", process, log)


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        _require_running(server)
        try:
            with urllib.request.urlopen(server.url, timeout=5):  # noqa: S310 - an http address of ours
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.3)
    raise ReactError(
        f"{server.name} does not answer at {server.url} after {START_SECONDS:.0f} seconds; see {server.log}"
    )


def _require_running(server: Server) -> None:
    if server.process.poll() is not None:
        lines = server.log.read_text(errors="replace").strip().splitlines()
        raise ReactError(f"{server.name} has ended ({lines[-1] if lines else 'no output'}); see {server.log}")


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} is taken: choose another with --{name}-port") from error
