"""The Dagster webserver behind a guard: `python -m react_pipeline.extensions.ui.assets.webserver`,
used as `dagster-webserver` is.

Belongs here: what is refused of Dagster's requests, and what is answered in its place: the start
page, the metrics (`metrics`), and the pictures of materializations (`pictures`). Does not belong
here: what any server refuses (`react_pipeline.extensions.ui.cross_site`), how large a query may be
(`graphql_limits`).

Dagster's own server runs a GraphQL mutation that comes by GET, and compares neither Host nor
Origin, so that each page its user visits could launch runs. Behind a proxy, `REACT_DAGSTER_URL`
names the address that browsers use.
"""

import os
import sys
from collections.abc import Collection

from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from react_pipeline.extensions.ui.assets.graphql_limits import MAX_BODY_BYTES, too_much
from react_pipeline.extensions.ui.assets.metrics import PORT_VARIABLE, metrics_text, serve_metrics
from react_pipeline.extensions.ui.assets.pictures import picture_at, served_instance
from react_pipeline.extensions.ui.cross_site import SAFE_METHODS, origin_of, refusal
from react_pipeline.extensions.ui.refusals import record_refusal
from react_pipeline.stage import STAGES
from react_pipeline.tracking import DAGSTER_VARIABLE

LINEAGE_PAGE = "/asset-groups?expanded=" + ",".join(
    f"global%40global%3A{group}"
    for group in dict.fromkeys(stage.group for stage in STAGES.values())
)
"""All assets with every group opened, by the names that Dagster's page gives to groups."""


class Guard:
    """Answers 403, 405 or 415 instead of passing on what a page of another site may have sent."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        """`allowed`: origins besides those of loopback."""
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or websocket."""

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # No other site may embed these pages or load anything from here.
                headers.append("Content-Security-Policy", "frame-ancestors 'self'")
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        if scope["type"] in ("http", "websocket"):
            status, reason = self._refusal(scope)
            if reason:
                record_refusal("dagster", status, reason)
                await PlainTextResponse(reason, status)(scope, receive, send)
                return
        if (
            scope["type"] == "http"
            and scope["method"] in SAFE_METHODS
            and (own := await _own_answer(scope["path"]))
        ):
            await own(scope, receive, send_unframed)
            return
        if scope["path"].endswith("/graphql"):
            if scope.get("method") == "POST":
                body = await _body(receive)
                if reason := too_much(body):
                    record_refusal("dagster", 400, reason)
                    await PlainTextResponse(reason, 400)(scope, receive, send)
                    return
                receive = _given(body, receive)
            elif scope["type"] == "websocket":
                receive = _bounded(receive, send)
        await self._app(scope, receive, send_unframed)

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


async def _body(receive: Receive) -> bytes:
    """The body of a request, or of a longer one more than is allowed."""
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _given(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read, and then what comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _bounded(receive: Receive, send: Send) -> Receive:
    """Closes a websocket at a message that asks too much."""

    async def next_message() -> Message:
        message = await receive()
        text = message.get("text") or message.get("bytes")
        if message["type"] == "websocket.receive" and text and (reason := too_much(text)):
            record_refusal("dagster", 1008, reason)
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
            return {"type": "websocket.disconnect", "code": 1008}
        return message

    return next_message


async def _own_answer(path: str) -> Response | None:
    """Our answer to a path for which Dagster's own server has no useful page."""
    if path == "/":
        # Dagster would show a timeline of its jobs, which is empty where runs were launched from
        # the command line.
        return RedirectResponse(LINEAGE_PAGE)
    if path == "/metrics":
        try:
            text = await run_in_threadpool(lambda: metrics_text(served_instance()))
        except Exception as error:  # noqa: BLE001 - of whatever database is gone
            return PlainTextResponse(f"no metrics: {type(error).__name__}\n", 503)
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)
    if (picture := await run_in_threadpool(picture_at, path)) is None:
        return None
    headers = {
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(picture, 200 if picture else 404, headers if picture else None, "image/jpeg")


def guard(allowed: Collection[str]) -> None:
    """Put the guard in front of every Dagster webserver of this process."""
    inner = DagsterWebserver.build_middleware

    def build_middleware(self: DagsterWebserver) -> list[Middleware]:
        return [Middleware(Guard, allowed=allowed), *inner(self)]

    DagsterWebserver.build_middleware = build_middleware  # type: ignore[method-assign]


if __name__ == "__main__":
    guard({origin_of(os.environ.get(DAGSTER_VARIABLE, ""))} - {""})
    if port := os.environ.get(PORT_VARIABLE):
        if not port.isdecimal():
            sys.exit(f"{PORT_VARIABLE}: {port!r} is no port; give a number such as 9464")
        serve_metrics(int(port), served_instance())
    main()
