"""What `doctor` says of the servers, and how a closed terminal ends them."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from react_pipeline.extensions.plan import diagnosis
from react_pipeline.extensions.plan.diagnosis import Finding, _device, diagnose
from react_pipeline.extensions.ui.home_lock import locked_for_ui, tell_addresses
from react_pipeline.project.project import Project
from react_pipeline.tracking.notes import DAGSTER_VARIABLE, MLFLOW_VARIABLE


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """A server on a free port that answers everything with the same body; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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
    ],
)
def test_dagster_and_its_daemon_are_asked(
    finding: Callable[..., Finding], body: bytes, state: str, words: str
) -> None:
    with answering(body) as address:
        found = finding("dagster server", DAGSTER_VARIABLE, address)
    assert found.state == state and words in found.detail


def test_port_at_which_something_else_than_http_answers_is_note(
    finding: Callable[..., Finding],
) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-other\r\n")
            self.request.recv(1 << 16)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        names = {"dagster server": DAGSTER_VARIABLE, "mlflow server": MLFLOW_VARIABLE}
        states = [finding(name, variable, address).state for name, variable in names.items()]
        server.shutdown()
    thread.join()
    assert states == ["note", "note"]


def test_a_ui_over_this_home_is_asked_wherever_it_answers(
    tiny_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with (
        answering(health(healthy=True)) as dagster,
        answering(b"ok") as mlflow,
        locked_for_ui(tmp_path) as lock,
    ):
        tell_addresses(lock, {"dagster": dagster, "mlflow": mlflow}, [])
        reported = {entry.what: entry.detail for entry in diagnose(tiny_project.path)}
    assert reported["dagster server"] == f"{dagster} answers"
    assert reported["mlflow server"] == f"{mlflow} answers"
    monkeypatch.setenv(MLFLOW_VARIABLE, mlflow)  # it is silent now
    (silent,) = (one for one in diagnose(tiny_project.path) if one.what == "mlflow server")
    assert silent.state == "note" and mlflow in silent.detail
    assert "react-pipeline ui" in silent.remedy


def test_a_driver_that_torch_cannot_use_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = next(_device())
    assert found.state == "note" and "NVIDIA" in found.detail and "pytorch.org" in found.remedy
