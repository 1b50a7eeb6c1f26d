"""A page of another origin, in a real browser, asks the user interfaces of `react-pipeline ui`;
none of it is done.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import write_project
from support.services import program, user_interfaces

pytestmark = [pytest.mark.slow, pytest.mark.operations]

LAUNCH = """mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } } }"""
SELECTOR = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "react",
    "jobName": "__ASSET_JOB",
    "assetSelection": [{"path": ["corpus"]}],
}
RUNS = "{ runsOrError { ... on Runs { results { runId } } } }"

ATTACKS = """async ([dagster, mlflow, url, body]) => {
  const outcome = {};
  const attempt = async (name, request) => {
    try { const answer = await request(); outcome[name] = answer.type === 'opaque' ? 'opaque' : answer.status; }
    catch (error) { outcome[name] = error.name; }
  };
  const json = {'Content-Type': 'application/json'}, text = {'Content-Type': 'text/plain'};
  await attempt('get', () => fetch(url));
  await attempt('get, opaque', () => fetch(url, {mode: 'no-cors'}));
  await attempt('post of text', () => fetch(url, {method: 'POST', mode: 'no-cors', headers: text, body}));
  await attempt('post of no type', () => fetch(url, {method: 'POST', mode: 'no-cors'}));
  await attempt('post of json', () => fetch(dagster + '/graphql', {method: 'POST', headers: json, body}));
  await attempt('report', () => fetch(dagster + '/report_asset_materialization/corpus?description=evil',
    {method: 'POST', mode: 'no-cors'}));
  await attempt('mlflow, text', () => fetch(mlflow + '/api/2.0/mlflow/experiments/create',
    {method: 'POST', mode: 'no-cors', headers: text, body: '{"name": "evil"}'}));
  await new Promise(done => {
    const image = new Image(); image.onload = image.onerror = event => { outcome.image = event.type; done(); };
    image.src = url;
  });
  await new Promise(done => {
    const socket = new WebSocket(dagster.replace('http', 'ws') + '/graphql', 'graphql-ws');
    socket.onopen = () => { outcome.websocket = 'open'; done(); };
    socket.onerror = () => { outcome.websocket = 'error'; done(); };
  });
  for (const enctype of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
    const frame = document.createElement('iframe'), form = document.createElement('form');
    frame.name = enctype; document.body.append(frame, form);
    Object.assign(form, {action: url, method: 'POST', enctype, target: enctype});
    await new Promise(done => { frame.onload = done; form.submit(); });
  }
  const frame = document.createElement('iframe'); document.body.append(frame);
  await new Promise(done => { frame.onload = done; frame.src = dagster + '/asset-groups'; });
  return outcome;
}"""


@dataclass(frozen=True)
class Served:
    dagster: str
    mlflow: str


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, drawings: Path
) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("guarded")
    project = write_project(directory, tiny_checkpoint, drawings)
    with user_interfaces(project) as (dagster, mlflow):
        yield Served(dagster, mlflow)


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    """Where an empty page of another origin is."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><body></body>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def launch(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "query": LAUNCH,
        "variables": {"params": {"selector": SELECTOR, "runConfigData": config}},
    }


def post(url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON, as a program on this machine gets them."""
    given = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), given)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as page:  # noqa: S310 - loopback
            return page.status, json.load(page)
    except urllib.error.HTTPError as error:
        return error.code, None


def runs(served: Served) -> list[Any]:
    return post(f"{served.dagster}/graphql", {"query": RUNS})[1]["data"]["runsOrError"]["results"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "evil.localhost"])
def test_a_page_of_another_origin_launches_and_writes_nothing(
    served: Served, foreign_port: int, name: str
) -> None:
    program("chromium", "chromium")
    from docs.screenshots import open_page

    body = launch({})
    url = f"{served.dagster}/graphql?query={quote(LAUNCH)}&variables={quote(json.dumps(body['variables']))}"
    statuses: dict[str, list[int]] = {}
    with open_page() as page:
        page.on(
            "response",
            lambda answer: statuses.setdefault(answer.request.method, []).append(answer.status),
        )
        page.goto(f"http://{name}:{foreign_port}/")
        statuses.clear()
        outcome = page.evaluate(ATTACKS, [served.dagster, served.mlflow, url, json.dumps(body)])
        posts = set(statuses["POST"])
        shown = [frame.content() for frame in page.frames[1:]]
        assert len(shown) == 4 and all("not allowed" in content for content in shown)
        # Calling the server by another name of this machine is no way round.
        page.goto(f"http://{name}:{served.dagster.rpartition(':')[2]}/")
        assert ("not allowed" in page.content()) is (name == "evil.localhost")
    assert outcome.pop("websocket") == outcome.pop("image") == "error"
    # A page of another port may reach MLflow's own code, which checks what is sent, not who sends
    # it.
    assert set(outcome.values()) <= {"TypeError", "opaque"}
    assert posts <= {400, 403}
    assert runs(served) == []
    events = '{ assetOrError(assetKey: {path: ["corpus"]}) { ... on Asset { assetMaterializations { runId } } } }'
    assert not (
        post(f"{served.dagster}/graphql", {"query": events})[1]["data"]["assetOrError"] or {}
    ).get("assetMaterializations")
    search = post(f"{served.mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 100})[1]
    assert "evil" not in {experiment["name"] for experiment in search["experiments"]}


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "10.rebound.example"},
        {"Origin": "http://evil.example"},
    ],
)
def test_both_servers_refuse_foreign_host_and_foreign_origin(
    served: Served, headers: dict[str, str]
) -> None:
    assert post(f"{served.dagster}/graphql", {"query": RUNS}, headers)[0] == 403
    assert (
        post(f"{served.mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 1}, headers)[0]
        == 403
    )
