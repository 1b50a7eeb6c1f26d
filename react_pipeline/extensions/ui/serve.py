"""Serving a page on loopback: bounded, and to its own browser alone.

Does not belong here: any page (`extensions`), which requests are refused (`cross_site`).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from react_pipeline.extensions.ui.cross_site import refusal
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
