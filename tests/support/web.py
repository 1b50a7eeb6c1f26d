"""Web servers on loopback: one that serves images well and badly, and one that serves a folder."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from werkzeug import Request, Response
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.utils import send_file

Answer = bytes | Callable[[BaseHTTPRequestHandler, int], None]
"""The body of a 200, or a function of the handler and of how often the path was asked for before.
"""


class Web:
    """The server: `url` without a slash at its end, `answers` by path, `asked` how often each path
    was asked for; a `robots.txt` that is not there is not counted.
    """

    def __init__(self, answers: Mapping[str, Answer], url: str) -> None:
        self.url = url
        self.answers = dict(answers)
        self.asked: Counter[str] = Counter()


@contextmanager
def served(answers: Mapping[str, Answer], host: str = "127.0.0.1") -> Iterator[Web]:
    """Serve until the block ends; paths without an answer are 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            before = web.asked[self.path]
            answer = web.answers.get(self.path)
            if answer is not None or self.path != "/robots.txt":
                web.asked[self.path] += 1
            if answer is None:
                self.send_error(404)
            elif isinstance(answer, bytes):
                send(self, answer)
            else:
                answer(self, before)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Handler, host) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        web = Web(answers, url)
        yield web


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # of 5, the default, many connections at once wait a second


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], host: str = "127.0.0.1") -> Iterator[str]:
    """Serve until the block ends; gives the URL, without a slash at its end."""
    with _Server((host, 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://{host}:{server.server_port}"
        finally:
            server.shutdown()


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as to S3

    def log_request(self, *_: Any) -> None:
        pass


def app_server(app: Any, port: int = 0) -> BaseWSGIServer:
    """A WSGI application that is served from now on, until `shutdown`."""
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=_Quiet)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


@contextmanager
def serve_app(app: Any) -> Iterator[str]:
    """Serve until the block ends; gives the URL, without a slash at its end."""
    server = app_server(app)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def page(handler: BaseHTTPRequestHandler, _before: int) -> None:
    """A page that says it is an image, as shops send for pictures they no longer have."""
    send(handler, b"<html><body>This picture is gone</body></html>", Content_Type="image/jpeg")


def hanging(handler: BaseHTTPRequestHandler, _before: int) -> None:
    """Nothing, until the client gives up."""
    handler.connection.settimeout(30)
    handler.rfile.read(1)


def dripping(handler: BaseHTTPRequestHandler, _before: int) -> None:
    """A byte now and then, so that no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    drip(handler)


def drip(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(200):
        try:
            handler.wfile.write(b"x")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.1)


def cut(body: bytes) -> Answer:
    """Half of the bytes that were announced."""

    def answer(handler: BaseHTTPRequestHandler, _before: int) -> None:
        send(handler, body[: len(body) // 2], Content_Length=str(len(body)))

    return answer


def failing_first(times: int, body: bytes) -> Answer:
    """503 at first."""

    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        send(handler, b"" if before < times else body, 503 if before < times else 200)

    return answer


def redirected(location: str) -> Answer:
    """302 to another place."""

    def answer(handler: BaseHTTPRequestHandler, _before: int) -> None:
        send(handler, b"", 302, Location=location)

    return answer


@dataclass
class ShardServer:
    """What a server does, and what it was asked.

    Attributes:
        folder: Served by path.
        answers: Path -> status codes that are answered first, one a request (GET).
        requests: GET requests by path.
        sent_bytes: Of all bodies.
    """

    folder: Path
    url: str = ""
    answers: dict[str, list[int]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve_folder(
    folder: Path, *, ranges: bool = True, tagged: bool = True
) -> Iterator[ShardServer]:
    """Serve until the context ends: with byte ranges, and with an ETag made of the content."""
    state = ShardServer(folder)

    @Request.application
    def answer(asked: Request) -> Response:
        path, is_get = state.folder / asked.path.lstrip("/"), asked.method == "GET"
        status = 200 if path.is_file() else 404
        if is_get:
            with state.lock:
                state.requests[asked.path] += 1
                if first := state.answers.get(asked.path):
                    status = first.pop(0)
        if status != 200:
            return Response("no", status)
        etag = hashlib.md5(path.read_bytes()).hexdigest() if tagged else False  # noqa: S324
        found = send_file(path, asked.environ, conditional=ranges, etag=etag)
        del found.headers["Last-Modified"]
        with state.lock:
            state.sent_bytes += int(found.content_length or 0) if is_get else 0
        return found

    with serve_app(answer) as state.url:
        yield state
