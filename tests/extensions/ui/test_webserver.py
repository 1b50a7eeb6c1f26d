"""The guard in front of Dagster's webserver, as an ASGI application, and that the webserver is
built with it.
"""

import asyncio
import importlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_webserver.webserver import DagsterWebserver

from react_pipeline.extensions.ui.assets import pictures, webserver
from react_pipeline.extensions.ui.assets.metrics import metrics_text
from react_pipeline.extensions.ui.assets.webserver import Guard, guard
from react_pipeline.extensions.ui.refusals import REFUSALS
from react_pipeline.stage import STAGES

LOOPBACK = {"host": "127.0.0.1:3000"}
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
def test_what_user_interface_asks_passes_and_cannot_be_framed(
    method: str, path: str, headers: dict[str, str]
) -> None:
    status, answered = ask(method, path, headers)
    assert status == 200
    assert answered == {
        "content-security-policy": "frame-ancestors 'self'",
        "cross-origin-resource-policy": "same-origin",
    }


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
    ],
)
def test_what_a_foreign_page_can_send_is_refused(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert ask(method, path, headers)[0] == status


def test_the_start_page_is_the_lineage_with_every_group_opened() -> None:
    status, answered = ask("GET", "/", LOOPBACK)
    assert status == 307 and answered["location"].startswith("/asset-groups?expanded=")
    assert {stage.group for stage in STAGES.values()} <= set(
        re.split("%3A|,", answered["location"])
    )
    assert ask("POST", "/", JSON)[0] == 200


def test_a_picture_is_answered_from_the_event_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pictures, "_read", lambda run_id, asset, name: name.encode() if asset == "corpus" else b""
    )
    address = f"/prefix/assets/react/pictures/{uuid.uuid4()}"
    status, answered = ask("GET", f"{address}/corpus/sheet", LOOPBACK)
    assert (status, answered["content-type"], answered["content-length"]) == (
        200,
        "image/jpeg",
        "5",
    )
    assert ask("GET", f"{address}/faiss_index/sheet", LOOPBACK)[0] == 404
    assert ask("GET", f"{address}/corpus/sheet", {"host": "rebound.example"})[0] == 403


def test_metrics_are_answered_and_guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        monkeypatch.setattr(webserver, "served_instance", lambda: instance)
        status, answered = ask("GET", "/metrics", LOOPBACK)
    assert status == 200 and answered["content-type"].startswith("text/plain")
    assert ask("GET", "/metrics", {"host": "rebound.example"})[0] == 403
    assert ask("POST", "/metrics", JSON)[1].get("content-type") is None  # Dagster's to refuse
    monkeypatch.setattr(webserver, "served_instance", lambda: 1 / 0)  # the database is gone
    assert ask("GET", "/metrics", LOOPBACK)[0] == 503


def test_what_is_refused_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    REFUSALS.clear()
    foreign = "x" * 9_000
    assert ask("POST", "/graphql", {**JSON, "host": foreign})[0] == 403
    assert ask("POST", "/graphql", LOOPBACK)[0] == 415
    assert ask("POST", "/graphql", JSON, body=b"[]")[0] == 400
    lines = [json.loads(line) for line in caplog.messages]
    assert [line["status"] for line in lines] == [403, 415, 400]
    assert all(len(line) < 1_000 for line in caplog.messages)  # a request does not fill the log
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        text = metrics_text(instance).decode()
    assert 'react_refused_total{status="415"} 1.0' in text


TOO_MUCH = {
    "aliases": b"{" + b" ".join(b"a%d: version" % number for number in range(51)) + b"}",
    "tokens": b"{" + b"version " * 20_001 + b"}",
    "depth": b"{a" * 61 + b"}" * 61,
}


@pytest.mark.parametrize("kind", [*TOO_MUCH, "batch", "bytes", "nested"])
def test_a_query_that_costs_too_much_is_refused(kind: str) -> None:
    body = json.dumps({"query": TOO_MUCH.get(kind, b"").decode()}).encode()
    other = {"batch": b"[" + body + b"]", "bytes": body + b" " * (1 << 20), "nested": b"[" * 9_999}
    assert ask("POST", "/graphql", JSON, body=other.get(kind, body))[0] == 400


def test_a_query_with_many_arguments_passes() -> None:
    arguments = ", ".join(f"a{number}: {number}" for number in range(600))
    body = json.dumps({"query": f"{{ runs({arguments}) {{ id }} }}"}).encode()
    assert ask("POST", "/graphql", JSON, body=body)[0] == 200
    assert ask("POST", "/graphql", JSON, body=json.dumps({"query": "{ %"}).encode())[0] == 200


def test_a_websocket_that_asks_too_much_is_closed() -> None:
    query = TOO_MUCH["aliases"].decode()
    messages = [
        {"type": "websocket.receive", "text": json.dumps({"type": "connection_init"})},
        {
            "type": "websocket.receive",
            "text": json.dumps({"type": "start", "payload": {"query": query}}),
        },
    ]
    sent: list[dict[str, Any]] = []
    received: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        received.extend([(await receive())["type"], (await receive())["type"]])

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/graphql", "query_string": b"", "headers": []}
    scope["headers"] = [(b"host", b"127.0.0.1:3000")]
    asyncio.run(Guard(inner, ())(scope, receive, send))
    assert received == ["websocket.receive", "websocket.disconnect"]
    assert [message["type"] for message in sent] == ["websocket.close"]


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
