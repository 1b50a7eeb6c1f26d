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
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from support.web import send, serving


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
            if status == 200:
                self._answer(head=False)
            else:
                send(self, b"no", status)

        def _answer(self, *, head: bool) -> None:
            path = state.folder / unquote(self.path).lstrip("/")
            if not path.is_file():
                return send(self, b"" if head else b"no", 404)
            data = path.read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            status, body, headers = 200, data, {}
            if asked and state.ranges:
                status, body = 206, data[int(asked[1]) : int(asked[2]) + 1]
                last = int(asked[1]) + len(body) - 1
                headers["Content_Range"] = f"bytes {asked[1]}-{last}/{len(data)}"
            if state.tagged:
                headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'  # noqa: S324
            headers["Content_Length"] = str(len(body))
            try:
                send(self, b"" if head else body, status, **headers)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            else:
                with state.lock:
                    state.sent_bytes += 0 if head else len(body)

    with serving(Handler) as state.url:
        yield state
