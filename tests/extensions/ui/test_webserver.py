"""The guard in front of Dagster's webserver, as an ASGI application, and that the webserver is
built with it.
"""

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_webserver.webserver import DagsterWebserver

from react_pipeline.extensions.ui.assets.metrics import metrics_text
from react_pipeline.extensions.ui.assets.webserver import Guard, guard
from react_pipeline.extensions.ui.refusals import REFUSALS

LOOPBACK = {"host": "127.0.0.1:3000"}
FRAME = {
    "sec-fetch-site": "cross-site",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "iframe",
}
JSON = {**LOOPBACK, "content-type": "application/json"}


QUERY = json.dumps({"query": "{ version }"}).encode()


def ask(
    method: str, path: str, headers: dict[str, str], kind: str = "http", body: bytes = QUERY
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer; 200 is that of the application behind the guard, which
    gets the body that was sent.
    """
    sent: list[dict[str, Any]] = []
    parts = [body[start : start + 500_000] for start in range(0, len(body), 500_000)]

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if method == "POST" and path.endswith("/graphql"):
            assert (await receive())["body"] == body
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    scope = {"type": kind, "path": path, "query_string": query.encode()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    if kind == "http":
        scope["method"] = method
    asyncio.run(Guard(inner, {"https://your.host"})(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/graphql", JSON),
        ("POST", "/graphql", {**JSON, "content-type": "application/json; charset=utf-8"}),
        ("POST", "/graphql", {**JSON, "host": "your.host", "origin": "https://your.host"}),
        ("GET", "/graphql", LOOPBACK),  # GraphiQL, which is a page
        ("GET", "/asset-groups?expanded=x", LOOPBACK),
    ],
)
def test_what_user_interface_asks_passes(method: str, path: str, headers: dict[str, str]) -> None:
    assert ask(method, path, headers)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/graphql?query=mutation", LOOPBACK, 405),
        ("HEAD", "/prefix/graphql?%71uery=mutation", LOOPBACK, 405),
        ("POST", "/graphql?query=mutation", LOOPBACK, 415),
        ("POST", "/graphql", {**JSON, "content-type": "text/plain; application/json"}, 415),
        ("POST", "/graphql", {**JSON, "content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/report_asset_materialization/corpus", LOOPBACK, 415),
        ("POST", "/graphql", {**JSON, "host": "rebound.example"}, 403),
        ("POST", "/graphql", {**JSON, "origin": "http://127.0.0.1:3001"}, 403),
        ("GET", "/", {**LOOPBACK, "sec-fetch-site": "same-site"}, 403),
        ("GET", "/", {**LOOPBACK, **FRAME}, 403),
    ],
)
def test_what_a_foreign_page_can_send_is_refused(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert ask(method, path, headers)[0] == status


def test_what_is_refused_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    REFUSALS.clear()
    foreign = "x" * 9_000
    assert ask("POST", "/graphql", {**JSON, "host": foreign})[0] == 403
    assert ask("POST", "/graphql", LOOPBACK)[0] == 415
    lines = [json.loads(line) for line in caplog.messages]
    assert [line["status"] for line in lines] == [403, 415]
    assert all(len(line) < 1_000 for line in caplog.messages)  # a request does not fill the log
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        text = metrics_text(instance).decode()
    assert 'react_refused_total{status="415"} 1.0' in text


def test_a_websocket_of_a_foreign_page_is_refused() -> None:
    assert (
        ask("GET", "/graphql", {**LOOPBACK, "origin": "http://127.0.0.1:3000"}, "websocket")[0]
        == 200
    )
    assert (
        ask("GET", "/graphql", {**LOOPBACK, "origin": "http://localhost:3000"}, "websocket")[0]
        == 403
    )


def test_dagster_builds_its_webserver_with_the_guard_in_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DagsterWebserver, "build_middleware", DagsterWebserver.build_middleware)
    guard({"https://your.host"})
    first = DagsterWebserver.build_middleware(object())[0]
    assert first.cls is Guard and first.kwargs == {"allowed": {"https://your.host"}}
    # The class that the webserver's program makes its application of.
    assert importlib.import_module("dagster_webserver.app").DagsterWebserver is DagsterWebserver
