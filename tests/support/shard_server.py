"""Web servers on loopback that serve a folder: with byte ranges or without, with or without an
ETag; all is counted.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from werkzeug import Request, Response
from werkzeug.utils import send_file

from support.web import serve_app


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
        etag = hashlib.md5(path.read_bytes()).hexdigest() if state.tagged else False  # noqa: S324
        found = send_file(path, asked.environ, conditional=state.ranges, etag=etag)
        del found.headers["Last-Modified"]
        with state.lock:
            state.sent_bytes += int(found.content_length or 0) if is_get else 0
        return found

    with serve_app(answer) as state.url:
        yield state
