"""FAULTS 34, 55: who may connect, half-sent requests, many clients, large bodies."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest
from flask import Flask, request

from react_pipeline.extensions.ui import serve
from react_pipeline.extensions.ui.serve import (
    ANSWERED_AT_ONCE,
    HOST,
    SILENT_SECONDS,
    bounded_server,
    guard,
    serve_app,
)

MAX_BYTES = 1000


def small_app() -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES

    @app.route("/", methods=["GET", "POST"])
    def size() -> str:
        return str(len(request.get_data()))

    @app.post("/json")
    def echo() -> str:
        return ascii(request.get_json())

    guard(app)
    return app


@contextmanager
def serving(app: Flask) -> Iterator[tuple[str, int]]:
    listening = socket.create_server((HOST, 0))
    server = bounded_server(listening, app)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        yield listening.getsockname()
    finally:
        server.close()


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with serving(small_app()) as found:
        yield found


def ask(
    address: tuple[str, int],
    method: str = "GET",
    path: str = "/",
    body: bytes = b"",
    **headers: str,
) -> int:
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        return connection.getresponse().status
    finally:
        connection.close()


def half_sent(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, timeout=30)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
    return connection


class Looked(Exception):  # noqa: N818 - ends the server
    pass


def test_server_is_not_found_at_another_address_of_this_machine() -> None:
    def look(url: str) -> None:
        port = int(url.rstrip("/").rpartition(":")[2])
        with (
            socket.create_connection((HOST, port), timeout=5),
            pytest.raises(ConnectionRefusedError),
        ):
            socket.create_connection(("127.0.0.2", port), timeout=5)
        raise Looked

    with pytest.raises(Looked):
        serve_app(small_app, 0, look)


def test_half_sent_requests_take_no_thread(address: tuple[str, int]) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(half_sent(address))
        with ThreadPoolExecutor(50) as clients:
            assert list(clients.map(lambda _: ask(address), range(50))) == [200] * 50


def test_a_client_that_falls_silent_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SILENT_SECONDS == 10
    monkeypatch.setattr(serve, "SILENT_SECONDS", 0)
    body = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\nhalf"
    with ExitStack() as stack:
        address = stack.enter_context(serving(small_app()))
        connections = []
        for sent in (b"", b"GET / HT", body):
            connections.append(stack.enter_context(socket.create_connection(address, timeout=30)))
            connections[-1].sendall(sent)
        for connection in connections:
            assert connection.recv(1) == b""


def test_a_body_too_large_is_refused(
    address: tuple[str, int],
) -> None:
    assert ask(address, "POST", body=b"x" * MAX_BYTES) == 200
    assert ask(address, "POST", body=b"x" * (MAX_BYTES + 1)) == 413
    chunked = {"Transfer-Encoding": "chunked"}
    assert ask(address, "POST", body=b"5\r\nhello\r\n0\r\n\r\n", **chunked) == 200
    large = b"%x\r\n%s\r\n" % (MAX_BYTES, b"x" * MAX_BYTES)
    assert ask(address, "POST", body=2 * large + b"0\r\n\r\n", **chunked) == 413
    assert ask(address, **{"Content-Length": "-1"}) == 400


@pytest.mark.parametrize("body", [b"[" * MAX_BYTES, b"{", b"\xff", b'"\\ud800"'])
def test_json_that_cannot_be_read_is_the_clients_fault(
    address: tuple[str, int], body: bytes
) -> None:
    assert ask(address, "POST", "/json", body) in (200, 400)


def test_only_so_many_requests_are_computed_at_once() -> None:
    app = small_app()
    together = threading.Barrier(ANSWERED_AT_ONCE + 1)

    @app.get("/slow")
    def slow() -> str:
        with suppress(threading.BrokenBarrierError):
            together.wait(0.5)
            pytest.fail("more requests than allowed are computed at once")
        return ""

    with serving(app) as address, ThreadPoolExecutor(10) as clients:
        assert list(clients.map(lambda _: ask(address, path="/slow"), range(10))) == [200] * 10
