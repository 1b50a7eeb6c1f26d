"""What `doctor` says of the servers, and how a closed terminal ends them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from support.web import Answer, Web, served

from react_pipeline.extensions.plan import diagnosis
from react_pipeline.extensions.plan.diagnosis import Finding, _device, diagnose
from react_pipeline.extensions.ui.servers import locked_for_ui, tell_addresses
from react_pipeline.project.project import Project
from react_pipeline.tracking.notes import DAGSTER_VARIABLE, MLFLOW_VARIABLE


def ssh(handler: BaseHTTPRequestHandler, _before: int) -> None:
    handler.wfile.write(b"SSH-2.0-other\r\n\r\n")


def answering(body: Answer) -> AbstractContextManager[Web]:
    return served({"/graphql": body, "/health": body})


def health(*, healthy: bool) -> bytes:
    daemons = [{"daemonType": "SENSOR", "required": True, "healthy": healthy}]
    daemons.append({"daemonType": "BACKFILL", "required": False, "healthy": False})
    return json.dumps(
        {"data": {"instance": {"daemonHealth": {"allDaemonStatuses": daemons}}}}
    ).encode()


@pytest.fixture(autouse=True)
def _servers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at packages and the processor takes longer than at servers."""
    for name in ("_packages", "_device"):
        monkeypatch.setattr(diagnosis, name, tuple)


@pytest.fixture
def finding(tiny_project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    def find(what: str, variable: str, address: str) -> Finding:
        monkeypatch.setenv(variable, address)
        return next(entry for entry in diagnose(tiny_project.path) if entry.what == what)

    return find


@pytest.mark.parametrize(
    ("body", "state", "words"),
    [
        (health(healthy=True), "ok", "answers"),
        (health(healthy=False), "note", "not ticking: sensor"),
        (b"<html>", "note", "something else answers"),
        (b'{"data": null}', "note", "something else answers"),
        (b"[" * 100_000, "note", "something else answers"),
        (ssh, "note", "SSH"),
    ],
)
def test_dagster_and_its_daemon_are_asked(
    finding: Callable[..., Finding], body: Answer, state: str, words: str
) -> None:
    with answering(body) as web:
        found = finding("dagster server", DAGSTER_VARIABLE, web.url)
    assert found.state == state and words in found.detail


def test_a_ui_over_this_home_is_asked_wherever_it_answers(
    tiny_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with (
        answering(health(healthy=True)) as dagster,
        answering(b"ok") as mlflow,
        locked_for_ui(tmp_path) as lock,
    ):
        tell_addresses(lock, {"dagster": dagster.url, "mlflow": mlflow.url}, [])
        reported = {entry.what: entry.detail for entry in diagnose(tiny_project.path)}
    assert reported["dagster server"] == f"{dagster.url} answers"
    assert reported["mlflow server"] == f"{mlflow.url} answers"
    monkeypatch.setenv(MLFLOW_VARIABLE, mlflow.url)  # it is silent now
    (silent,) = (one for one in diagnose(tiny_project.path) if one.what == "mlflow server")
    assert silent.state == "note" and mlflow.url in silent.detail
    assert "react-pipeline ui" in silent.remedy


def test_a_driver_that_torch_cannot_use_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = next(_device())
    assert found.state == "note" and "NVIDIA" in found.detail and "pytorch.org" in found.remedy
