"""An S3 server on loopback whose answers a test can spoil: moto, with conditional writes made
atomic.

`python tests/support/bucket.py PORT` serves an empty bucket `artifacts` until it is stopped.
"""

from __future__ import annotations

import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.web import app_server

BUCKET = "artifacts"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}

Environ = dict[str, Any]
Spoiler = Callable[[Environ], tuple[str, str] | None]
"""Maps a request to a status and an S3 error code to answer instead; None: as it is."""


class BucketServer:
    """The server; `spoil` sees every request first, and `requests` counts them by method."""

    def __init__(self, port: int = 0) -> None:
        self.application = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str]] = []
        self.spoil: Spoiler = lambda _: None
        self.server = app_server(self._answer, port)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.address}
        self.empty()

    def _answer(self, environ: Environ, start: Any) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if spoiled := self.spoil(environ):
            status, code = spoiled
            body = f"<Error><Code>{code}</Code><Message>spoiled</Message></Error>".encode()
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(status, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
            return [body]
        # moto looks whether an object is there and then writes it, without a lock.
        with self.lock:
            return list(self.application(environ, start))

    def empty(self) -> None:
        """Begin again with an empty bucket."""
        self.spoil = lambda _: None
        self.ask("POST", "moto-api/reset")
        self.ask("PUT", BUCKET)
        self.requests.clear()

    def ask(self, method: str, path: str) -> None:
        request = urllib.request.Request(f"{self.address}/{path}", method=method)  # noqa: S310
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310


if __name__ == "__main__":
    print(BucketServer(int(sys.argv[1])).address, flush=True)
    threading.Event().wait()
