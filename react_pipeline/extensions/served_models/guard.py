"""What `mlflow models serve` refuses before it reads a request: MLflow's scoring server compares
neither Host nor Origin, bounds no body, and decodes any parquet.

Does not belong here: what a model refuses of a request that was read (`served`).
"""

import os
from collections.abc import Collection

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from react_pipeline.extensions.ui import SAFE_METHODS, origin_of, record_refusal, refusal

URL_VARIABLE = "REACT_SERVED_URL"
"""The address by which clients find the server, if it is not one of loopback."""
MAX_BODY_BYTES = 32 << 20
MAX_HELD_BYTES = 64 << 20
"""Of all requests at a time: parsed, a body takes some times its bytes."""
_PROBES = ("/ping", "/health")
"""Clusters ask for these by any name, and they tell nothing."""


class Guard:
    """Answers 403, 411, 413, 415 or 503 instead of passing a request on."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        """`allowed`: origins besides those of loopback."""
        self._app = app
        self._allowed = allowed
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        size_bytes = 0
        if scope["type"] in ("http", "websocket") and scope["path"] not in _PROBES:
            headers = Headers(scope=scope)
            size_bytes = int(headers.get("Content-Length", 0))  # digits: the HTTP server read it
            status, reason = self._refusal(scope, headers, size_bytes)
            if reason:
                record_refusal("mlflow models serve", status, reason)
                await PlainTextResponse(reason, status)(scope, receive, send)
                return
        self._held_bytes += size_bytes
        try:
            await self._app(scope, receive, send)
        finally:
            self._held_bytes -= size_bytes

    def _refusal(self, scope: Scope, headers: Headers, size_bytes: int) -> tuple[int, str]:
        method = scope.get("method", "GET")  # a websocket has none
        if reason := refusal(method, headers.get, self._allowed):
            return 403, reason
        if "Transfer-Encoding" in headers:
            return 411, "send Content-Length"
        if size_bytes > MAX_BODY_BYTES:
            return 413, f"a request has at most {MAX_BODY_BYTES:,} bytes; send fewer images"
        if self._held_bytes + size_bytes > MAX_HELD_BYTES:
            return 503, "busy with other requests; try again"
        kind = headers.get("Content-Type", "").partition(";")[0].strip()
        if method not in SAFE_METHODS and kind != "application/json":
            return 415, "the body must be application/json"
        return 0, ""


def guard() -> None:
    """Put the guard in front of the scoring server of this process, which asks for its middleware
    when the first request comes, after the model is loaded.
    """
    inner = FastAPI.build_middleware_stack
    allowed = {origin_of(os.environ.get(URL_VARIABLE, ""))} - {""}

    def build_middleware_stack(self: FastAPI) -> ASGIApp:
        return Guard(inner(self), allowed)

    FastAPI.build_middleware_stack = build_middleware_stack  # type: ignore[method-assign]
