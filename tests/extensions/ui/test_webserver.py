"""The guard in front of Dagster's webserver, as an ASGI application, and that the webserver is
built with it.
"""

import asyncio
import importlib
from typing import Any

import pytest
from dagster_webserver.webserver import DagsterWebserver

from react_pipeline.extensions.ui.assets import Guard, guard

LOOPBACK = {"host": "127.0.0.1:3000"}
JSON = {**LOOPBACK, "content-type": "application/json"}


def ask(method: str, path: str, headers: dict[str, str], kind: str = "http") -> int:
    """Status of the answer; 200 is that of the application behind the guard."""
    sent: list[dict[str, Any]] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    scope: dict[str, Any] = {"type": kind, "path": path, "query_string": query.encode()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    if kind == "http":
        scope["method"] = method
    asyncio.run(Guard(inner, {"https://your.host"})(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/graphql", {**JSON, "content-type": "application/json; charset=utf-8"}, 200),
        ("POST", "/graphql", {**JSON, "host": "your.host", "origin": "https://your.host"}, 200),
        ("GET", "/graphql", LOOPBACK, 200),  # GraphiQL, which is a page
        ("GET", "/asset-groups?expanded=x", LOOPBACK, 200),
        ("GET", "/graphql?query=mutation", LOOPBACK, 405),
        ("HEAD", "/prefix/graphql?%71uery=mutation", LOOPBACK, 405),
        ("POST", "/graphql?query=mutation", LOOPBACK, 415),
        ("POST", "/graphql", {**JSON, "content-type": "text/plain; application/json"}, 415),
        ("POST", "/report_asset_materialization/corpus", LOOPBACK, 415),
        ("POST", "/graphql", {**JSON, "host": "rebound.example"}, 403),
    ],
)
def test_what_a_foreign_page_can_send_is_refused(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert ask(method, path, headers) == status


@pytest.mark.parametrize(("port", "status"), [(3000, 200), (3001, 403)])
def test_a_websocket_of_a_foreign_page_is_refused(port: int, status: int) -> None:
    origin = {**LOOPBACK, "origin": f"http://127.0.0.1:{port}"}
    assert ask("GET", "/graphql", origin, "websocket") == status


def test_dagster_builds_its_webserver_with_the_guard_in_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DagsterWebserver, "build_middleware", DagsterWebserver.build_middleware)
    guard({"https://your.host"})
    first = DagsterWebserver.build_middleware(object())[0]
    assert first.cls is Guard and first.kwargs == {"allowed": {"https://your.host"}}
    # The class that the webserver's program makes its application of.
    assert importlib.import_module("dagster_webserver.app").DagsterWebserver is DagsterWebserver
