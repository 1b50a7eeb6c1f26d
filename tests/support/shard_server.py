"""Web servers on loopback that serve a folder: with byte ranges or without, with or without an
ETag; all is counted.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class ShardServer:
    """What a server does, and what it was asked.

    Attributes:
        folder: Served by path.
        ranges: Answer `Range` with 206.
        tagged: Send an ETag, made of the content.
        answers: Path -> status codes that are answered first, one a request (GET).
        requests: GET requests by path.
        sent_bytes: Of all bodies.
    """

    folder: Path
    ranges: bool = True
    tagged: bool = True
    url: str = ""
    answers: dict[str, list[int]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve_folder(
    folder: Path, *, ranges: bool = True, tagged: bool = True
) -> Iterator[ShardServer]:
    """Serve until the context ends."""
    state = ShardServer(folder, ranges, tagged)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(head=True)

        def do_GET(self) -> None:
            with state.lock:
                state.requests[self.path] += 1
                status = state.answers[self.path].pop(0) if state.answers.get(self.path) else 200
            if status != 200:
                self._end(status, b"no")
                return
            self._answer(head=False)

        def _answer(self, *, head: bool) -> None:
            path = state.folder / unquote(self.path).lstrip("/")
            if not path.is_file():
                self._end(404, b"" if head else b"no")
                return
            data = path.read_bytes()
            found = (
                re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if state.ranges
                else None
            )
            body = data[int(found[1]) : int(found[2]) + 1] if found else data
            self.send_response(206 if found else 200)
            if found:
                self.send_header(
                    "Content-Range", f"bytes {found[1]}-{int(found[1]) + len(body) - 1}/{len(data)}"
                )
            if state.tagged:
                self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')  # noqa: S324
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if head:
                return
            try:
                self.wfile.write(body)
                with state.lock:
                    state.sent_bytes += len(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _end(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
