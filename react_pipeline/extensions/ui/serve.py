"""Serving a page on loopback: bounded, and to its own browser alone.

A server without a password trusts whoever reaches it, and its user's browser can reach it on behalf
of any page they visit: requests are refused by their headers. Programs such as `curl` send none of
these headers but `Host`, so they are not refused. Does not belong here: any page (`extensions`).
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from react_pipeline.store import InputError

if TYPE_CHECKING:
    from flask import Flask

HOST = "127.0.0.1"
"""There is no password, so it is not opened to the network."""
CONNECTIONS = 512
"""Open at once, more than a browser opens; further ones wait to be accepted. One that is half sent
takes no thread.
"""
SILENT_SECONDS = 10
"""A client that sends nothing for this long, and waits for no answer, is dropped."""
ANSWERED_AT_ONCE = 4
"""Requests that are computed at once, and images that are decoded at once."""

LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
"""Names by which a browser on this machine calls it, at any port: a tunnel has another one."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def serve_app(create: Callable[[], Flask], port: int, on_start: Callable[[str], None]) -> None:
    """Serve an application on loopback until Ctrl-C, on any port that is free if it is 0; it is
    created once the port is bound, and `on_start` gets the address as soon as it answers.

    Raises:
        InputError: If the port is taken.
    """
    try:
        # Bound before the model is loaded, which takes seconds.
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used ({error.strerror}): choose another with --port"
        ) from error
    with listening:
        number = int(listening.getsockname()[1])
        server = bounded_server(listening, create())
        on_start(f"http://{HOST}:{number}/")
        server.run()


def bounded_server(listening: socket.socket, app: Flask) -> Any:
    """A server of an application that no number of clients and no half-sent request exhausts;
    bodies above its `MAX_CONTENT_LENGTH` are refused unread.
    """
    from waitress import create_server  # type: ignore[import-untyped]

    # It would warn of every request that waits for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    return create_server(
        app,
        sockets=[listening],
        threads=ANSWERED_AT_ONCE,
        connection_limit=CONNECTIONS,
        channel_timeout=SILENT_SECONDS,
        cleanup_interval=1,
        max_request_body_size=app.config["MAX_CONTENT_LENGTH"] + 1,  # the first that is refused
        asyncore_use_poll=True,
    )


def guard(app: Flask, pictures_from: str = "") -> None:
    """Let only pages of this server ask, and let its pages load nothing from elsewhere but pictures
    from these.
    """
    from flask import Response, abort, request
    from flask.json.provider import DefaultJSONProvider

    class Json(DefaultJSONProvider):
        """Rejects JSON nested deeper than Python's recursion limit."""

        def loads(self, s: str | bytes, **options: Any) -> Any:
            try:
                return super().loads(s, **options)
            except RecursionError as error:
                raise ValueError("nested too deep") from error

    app.json = Json(app)
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src "
        f"'self'; img-src 'self' data: {pictures_from}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )

    @app.before_request
    def refuse_strangers() -> None:
        if reason := refusal(request.method, request.headers.get):
            abort(403, reason)

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


def url_origin(url: str) -> str:
    """Scheme, name and port of an address, as the header `Origin` has them; "" for what is not a
    web address.
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.scheme in ("http", "https") else ""


def refusal(method: str, header: Callable[[str], str | None], allowed: Collection[str] = ()) -> str:
    """Why a request is refused; "" if it is not.

    Args:
        method: The HTTP method; `GET` for a websocket.
        header: Gives a header of the request by its name, whatever its case.
        allowed: Origins such as `https://your.host:8300` by which browsers find this server behind
            a proxy.
    """
    host = (header("Host") or "").lower()
    if not LOOPBACK_HOST.fullmatch(host) and host not in {
        origin.partition("://")[2] for origin in allowed
    }:
        # A name of another site that leads here: DNS rebinding.
        return f"host {host!r} is not allowed: ask for 127.0.0.1 or localhost"
    origin = header("Origin")
    if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}", *allowed}:
        return f"origin {origin!r} is not allowed: a page of another site may not ask here"
    site = header("Sec-Fetch-Site")
    navigation = (header("Sec-Fetch-Mode"), header("Sec-Fetch-Dest")) == ("navigate", "document")
    if site not in (None, "same-origin", "none") and not (navigation and method in SAFE_METHODS):
        return f"a {site} request is not allowed, except to open a page by a link"
    return ""
