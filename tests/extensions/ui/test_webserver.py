"""The guard in front of Dagster's webserver, as an ASGI application, and that the webserver is
built with it.
"""

import importlib

import pytest
from dagster_webserver.webserver import DagsterWebserver
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient, WebSocketDenialResponse

from react_pipeline.extensions.ui.assets import Guard, guard

LOOPBACK = {"host": "127.0.0.1:3000"}
JSON = {**LOOPBACK, "content-type": "application/json"}


CLIENT = TestClient(Guard(PlainTextResponse("inside"), {"https://your.host"}))


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
    assert CLIENT.request(method, path, headers=headers).status_code == status


def test_a_websocket_of_a_foreign_page_is_refused() -> None:
    origin = {**LOOPBACK, "origin": "http://127.0.0.1:3001"}
    with pytest.raises(WebSocketDenialResponse) as refused:
        CLIENT.websocket_connect("/graphql", headers=origin).__enter__()
    assert refused.value.status_code == 403


def test_dagster_builds_its_webserver_with_the_guard_in_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DagsterWebserver, "build_middleware", DagsterWebserver.build_middleware)
    guard({"https://your.host"})
    first = DagsterWebserver.build_middleware(object())[0]
    assert first.cls is Guard and first.kwargs == {"allowed": {"https://your.host"}}
    # The class that the webserver's program makes its application of.
    assert importlib.import_module("dagster_webserver.app").DagsterWebserver is DagsterWebserver
