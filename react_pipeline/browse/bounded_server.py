"""A threaded WSGI server that no number of clients and no half-sent request exhausts.

werkzeug's own server gives each connection a thread and waits for its request for ever.
"""

import io
import math
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from flask import Flask
from werkzeug.exceptions import LengthRequired
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wsgi import get_content_length

CLIENTS = 64
"""Maximum number of open connections; further ones wait to be accepted."""
PATIENCE_SECONDS = 1.0
"""A connection that has not sent its full request after this long may be closed to admit a waiting
one.
"""
ANSWERED_AT_ONCE = 4
"""Maximum number of requests that are computed at once, and of images that are decoded at once."""
SILENT_SECONDS = 10.0
"""A client that neither sends nor receives anything for this long is dropped."""


class _Handler(WSGIRequestHandler):
    timeout = SILENT_SECONDS

    def log_request(self, *_: Any) -> None:
        """Log no requests."""

    def connection_dropped(self, *_: Any) -> None:
        """Wait for no further request."""
        self.close_connection = True


class BoundedServer(ThreadedWSGIServer):
    """Serves `app` at a socket that listens already; bodies above its `MAX_CONTENT_LENGTH` are
    refused unread.
    """

    daemon_threads = True

    def __init__(self, listening: socket.socket, app: Flask) -> None:
        self._flask = app
        self._reading_since: dict[Any, float] = {}  # infinite where the whole request is there
        self._changed = threading.Condition()
        self._answering = threading.BoundedSemaphore(ANSWERED_AT_ONCE)
        host, port = listening.getsockname()[:2]
        super().__init__(host, port, self._answer, _Handler, fd=listening.fileno())
        listening.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Make room for the connection, and start its thread."""
        with self._changed:
            while len(self._reading_since) >= CLIENTS:
                oldest, since = min(self._reading_since.items(), key=lambda entry: entry[1])
                if time.monotonic() - since > PATIENCE_SECONDS:
                    # Its thread reads the end of the request, and removes it.
                    self._reading_since[oldest] = math.inf
                    with suppress(OSError):  # gone already
                        oldest.shutdown(socket.SHUT_RDWR)
                self._changed.wait(PATIENCE_SECONDS / 10)
            self._reading_since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection."""
        super().shutdown_request(request)
        with self._changed:
            self._reading_since.pop(request, None)
            self._changed.notify()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        size_bytes = get_content_length(environ) or 0
        if environ.get("HTTP_TRANSFER_ENCODING"):
            return LengthRequired()(environ, start_response)
        # A larger one is refused by the application, which does not read it.
        if size_bytes <= self._flask.config["MAX_CONTENT_LENGTH"]:
            body = environ["wsgi.input"].read(size_bytes)
            if len(body) < size_bytes:
                raise ConnectionResetError("the request ended early")
            environ["wsgi.input"] = io.BytesIO(body)
        with self._changed:
            self._reading_since[environ["werkzeug.socket"]] = math.inf
        with self._answering:
            return self._flask(environ, start_response)
