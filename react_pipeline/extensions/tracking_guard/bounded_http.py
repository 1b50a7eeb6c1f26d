"""The HTTP policy for tracking servers, which may be down, slow or endless: an adapter of requests.

MLflow bounds each wait for a byte, so a server that drips, or never ends, holds its client for
good. Here one request as a whole has a deadline, its answer a size, and all requests that fail
share an allowance of seconds. Belongs here: requests of MLflow's client to the servers named to
`bound`. Does not belong here: the policy itself (`bounded_body`), what is asked, and the queue.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import requests

from react_pipeline.extensions.web import BoundedBody, RefusedAccess

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
SETTINGS = {
    _TIMEOUT: "4",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # Those of the tracking API are POST, which a redirect turns into GET.
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
}
"""Defaults of MLflow's own variables; what the environment sets wins."""

FAILURE_SHARE = 1.2
"""Failed requests with no success among them may take this many times the time of one, and as much
again every hour.
"""

MIN_SHARE = 0.5
"""With less than this share of the time of a request left, a server is not asked: a slow one could
only fail.
"""

MAX_ANSWER_BYTES = 32 << 20
MIN_UPLOAD_BYTES_PER_SECOND = 128 << 10
"""Sending a request may take longer by the time in which its body is sent at this speed."""

_READ_BYTES = 1 << 16

_allowances: dict[str, Allowance] = {}
"""By scheme, host and port."""


class Allowance:
    """The seconds that requests to one server may still lose: a process waits no longer for one
    that is down.
    """

    def __init__(self) -> None:
        """Full at first."""
        self._lost = 0.0
        self._time = time.monotonic()

    def seconds(self) -> float:
        """How long the next request may take; 0: not to be asked."""
        request = _request_seconds()
        now = time.monotonic()
        limit = FAILURE_SHARE * request
        self._lost = max(0.0, self._lost - (now - self._time) * limit / 3600)
        self._time = now
        rest = min(request, limit - self._lost)
        return rest if rest >= MIN_SHARE * request else 0.0

    def charge(self, seconds: float) -> None:
        """Count the time of a request that failed; more than the limit would not be earned again
        within an hour.
        """
        self._lost = min(FAILURE_SHARE * _request_seconds(), self._lost + seconds)

    def refill(self) -> None:
        """Forget what earlier requests lost, after one that succeeded."""
        self._lost = 0.0


def bound(uri: str) -> None:
    """Bound what MLflow's client asks this server from now on; a database is left as it is."""
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    if not uri.startswith("http"):
        return
    from mlflow.utils.request_utils import TCPKeepAliveHTTPAdapter

    _allowances.setdefault(_origin(uri), Allowance())
    if "send" not in vars(TCPKeepAliveHTTPAdapter):
        # MLflow makes its sessions itself and has no place for an adapter of ours.
        TCPKeepAliveHTTPAdapter.send = _send  # type: ignore[method-assign, assignment]


def _request_seconds() -> float:
    return float(os.environ[_TIMEOUT])


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def _send(
    adapter: requests.adapters.HTTPAdapter,
    request: requests.PreparedRequest,
    stream: bool = False,
    timeout: Any = None,
    verify: Any = True,
    cert: Any = None,
    proxies: Any = None,
) -> requests.Response:
    """In the place of `HTTPAdapter.send`.

    Raises:
        requests.Timeout: If the answer is not whole in time, or the allowance is used up.
        requests.RequestException: If it is too large, or as `HTTPAdapter.send`.
    """
    plain = requests.adapters.HTTPAdapter.send
    allowance = _allowances.get(_origin(request.url or ""))
    if allowance is None:
        return plain(adapter, request, stream, timeout, verify, cert, proxies)
    if not (seconds := allowance.seconds()):
        raise requests.Timeout(
            "it did not answer before; it is asked again by the next command, or within an hour; "
            f"if it is slow, raise {_TIMEOUT}"
        )
    _watch(adapter.get_connection_with_tls_context(request, verify, proxies, cert))
    upload = int(request.headers.get("Content-Length") or 0) / MIN_UPLOAD_BYTES_PER_SECOND
    waits = (seconds, seconds)
    exchange = _Exchange(
        lambda: plain(adapter, request, stream, waits, verify, cert, proxies),
        whole=not stream,
        send_seconds=seconds + upload,
    )
    started = time.monotonic()
    failed = True
    try:
        answer = exchange.answer(seconds)
        failed = answer.status_code >= 500 or answer.status_code == 429
        return answer
    finally:
        if failed:
            allowance.charge(time.monotonic() - started)
        else:
            allowance.refill()


class _Exchange(threading.Thread):
    """A request and its answer, in a thread: looking a name up, connecting and TLS cannot be
    bounded otherwise.
    """

    def __init__(
        self, send: Callable[[], requests.Response], *, whole: bool, send_seconds: float
    ) -> None:
        super().__init__(name="mlflow-request", daemon=True)
        self._send = send
        self._whole = whole
        self.send_seconds = send_seconds
        self.sent = threading.Event()
        self._answer: requests.Response | None = None
        self._error: Exception | None = None
        self._connection: Any = None
        self._over = False

    def run(self) -> None:
        try:
            answer = self._send()
            if self._whole:
                answer._content = _body(answer)
            self._answer = answer
        except Exception as error:
            self._error = error
        finally:
            self.sent.set()

    def answer(self, seconds: float) -> requests.Response:
        """Wait for the answer; the connection of one that does not come is cut, which ends the
        thread.

        Sending takes what it needs of `send_seconds`; the answer then has `seconds`, and no more
        than is left in all.
        """
        end = time.monotonic() + self.send_seconds
        self.start()
        try:
            self.sent.wait(self.send_seconds)
            self.join(max(0.0, min(seconds, end - time.monotonic())))
        finally:
            self._over = self.is_alive()
            if self._over and self._connection is not None:
                with suppress(OSError, AttributeError):
                    self._connection.sock.shutdown(socket.SHUT_RDWR)
        # Before the error: cutting the connection may have caused it.
        if self._over or (self._answer is None and self._error is None):
            raise requests.Timeout(
                f"no whole answer within {seconds:.1f} s; {_TIMEOUT} sets the time"
            )
        if self._error is not None:
            raise self._error
        assert self._answer is not None  # noqa: S101 - one of the two is set
        return self._answer

    def uses(self, connection: Any) -> None:
        """Called with each connection that the thread is about to use."""
        self._connection = connection
        if self._over:
            raise requests.Timeout("the caller gave up")


def _body(answer: requests.Response) -> bytes:
    try:
        return BoundedBody(MAX_ANSWER_BYTES).extend(answer.iter_content(_READ_BYTES))
    except RefusedAccess as error:
        answer.close()
        raise requests.RequestException(str(error)) from error


class _Watched:
    """Mixed into the connections of a pool: reports to an exchange which one it uses, and that all
    is sent.
    """

    sock: socket.socket | None
    timeout: float
    connect: Callable[[], None]

    def request(self, *args: Any, **options: Any) -> None:
        exchange = threading.current_thread()
        if isinstance(exchange, _Exchange):
            exchange.uses(self)
            if self.sock is None:
                self.connect()
            self.timeout = (
                exchange.send_seconds
            )  # of the body as a whole; for the answer, urllib3 sets its own
            super().request(*args, **options)  # type: ignore[misc]
            exchange.sent.set()
        else:
            super().request(*args, **options)  # type: ignore[misc]


def _watch(pool: Any) -> None:
    if not issubclass(pool.ConnectionCls, _Watched):
        pool.ConnectionCls = type("WatchedConnection", (_Watched, pool.ConnectionCls), {})
