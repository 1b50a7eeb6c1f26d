"""The Dagster webserver behind a guard: `python -m react_pipeline.extensions.ui.assets`,
used as `dagster-webserver` is.

Does not belong here: what any server on loopback refuses
(`react_pipeline.extensions.ui.serve`).

Dagster's own server runs a GraphQL mutation that comes by GET or as a form, and compares neither
Host nor Origin, so that each page its user visits could launch runs. Behind a proxy,
`REACT_DAGSTER_URL` names the address that browsers use.
"""

import os
from collections.abc import Collection

from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from react_pipeline.extensions.ui.serve import SAFE_METHODS, refusal, url_origin
from react_pipeline.tracking import DAGSTER_VARIABLE


class Guard:
    """Answers 403, 405 or 415 instead of passing on what a page of another site may have sent."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        """`allowed`: origins besides those of loopback."""
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or websocket."""
        if scope["type"] in ("http", "websocket"):
            status, reason = self._refusal(scope)
            if reason:
                await PlainTextResponse(reason, status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        headers = Headers(scope=scope)
        method = scope.get("method", "GET")  # a websocket has none
        if reason := refusal(method, headers.get, self._allowed):
            return 403, reason
        if (
            method not in SAFE_METHODS
            and headers.get("Content-Type", "").partition(";")[0].strip() != "application/json"
        ):
            # A form of another site can send the other types without asking.
            return 415, "the body must be application/json"
        if method in SAFE_METHODS and scope["path"].endswith("/graphql") and scope["query_string"]:
            return 405, "send GraphQL by POST"
        return 0, ""


def guard(allowed: Collection[str]) -> None:
    """Put the guard in front of every Dagster webserver of this process."""
    inner = DagsterWebserver.build_middleware

    def build_middleware(self: DagsterWebserver) -> list[Middleware]:
        return [Middleware(Guard, allowed=allowed), *inner(self)]

    DagsterWebserver.build_middleware = build_middleware  # type: ignore[method-assign]


if __name__ == "__main__":
    guard({url_origin(os.environ.get(DAGSTER_VARIABLE, ""))} - {""})
    main()
