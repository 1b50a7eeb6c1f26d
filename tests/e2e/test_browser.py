"""In a real browser: what people see of both user interfaces and the dashboard, by clicks; and that
nothing is done of what a page of another origin asks them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import REPOSITORY, write_project
from support import web
from support.services import answer, free_port, program, running

from react_pipeline.project.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.operations]

METHODS = ("base", "gated-image", "locked-text")

LAUNCH = """mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } } }"""
SELECTOR = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "react",
    "jobName": "__ASSET_JOB",
    "assetSelection": [{"path": ["corpus"]}],
}
RUNS = "{ runsOrError { ... on Runs { results { runId } } } }"

EVENTS = '{ assetOrError(assetKey: {path: ["corpus"]}) { ... on Asset { assetMaterializations { runId } } } }'

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
    """A small project with results, and where its two user interfaces answer."""

    project: Project
    dagster: str
    mlflow: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, drawings: Path
) -> Iterator[Served]:
    program("chromium", "chromium")
    directory = tmp_path_factory.mktemp("served")
    project = write_project(directory, tiny_checkpoint, drawings)
    home = directory / "dagster_home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    command = [sys.executable, "-m", "react_pipeline"]
    methods = [word for method in METHODS for word in ("--method", method)]
    config = ["--config", str(project.path)]
    subprocess.run(
        [*command, "materialize", "--domain", "shapes", *methods, *config],
        check=True,
        env=environment,
    )
    dagster, mlflow = free_port(), free_port()
    ports = ["--dagster-port", str(dagster), "--mlflow-port", str(mlflow)]
    with running([*command, "ui", *ports, *config], directory / "ui.log", env=environment):
        served = Served(
            project, f"http://127.0.0.1:{dagster}", f"http://127.0.0.1:{mlflow}", environment
        )
        assert answer(f"{served.dagster}/server_info")[0] == 200
        assert answer(f"{served.mlflow}/health")[0] == 200
        from docs.screenshots import ask_dagster

        ask_dagster(served.dagster, "mutation { setNuxSeen }")
        yield served


def test_retrieved_pictures_are_shown(served: Served) -> None:
    from docs.screenshots import open_page, show_picture

    with open_page() as page:
        show_picture(page, served.dagster, "retrieved_set", "shapes")
        picture = page.locator("img[src^='data:image']:visible").first
        assert picture.evaluate("picture => picture.naturalWidth") > 100


def test_partition_launched_by_clicks_is_materialized(served: Served) -> None:
    from docs.screenshots import ask_dagster, launch_partition, open_page

    query = "{runsOrError{... on Runs{results{status assetSelection{path} tags{key value}}}}}"
    with open_page() as page:
        launch_partition(page, served.dagster, "evaluation_set", "colours")
        deadline = time.monotonic() + 600
        states: list[str] = []
        while time.monotonic() < deadline and states[:1] not in (["SUCCESS"], ["FAILURE"]):
            page.wait_for_timeout(1_000)
            runs = ask_dagster(served.dagster, query)["runsOrError"]["results"]
            states = [
                run["status"]
                for run in runs
                if run["assetSelection"] == [{"path": ["evaluation_set"]}]
                and {"key": "dagster/partition", "value": "colours"} in run["tags"]
            ]
        assert states[:1] == ["SUCCESS"]
    assert served.project.store.current("evaluation_set", "colours").counts["images"] > 0


def test_mlflow_shows_results_and_models_without_a_search(served: Served) -> None:
    from docs.screenshots import find_runs, open_page, show_models, show_results

    experiment_id, _ = find_runs(served.mlflow, "tiny", "tags.asset = 'domain_results'")
    with open_page(2200) as page:
        show_results(page, served.mlflow, experiment_id)
        shown = page.inner_text("body")
        assert all(word in shown for word in (*METHODS, "top1", "delta_top1", "training_seconds"))
        # Neither the corpus nor any other run that measures nothing is among them.
        assert page.get_by_text("3 matching runs").is_visible() and "retrieved_set" not in shown
        show_results(page, served.mlflow, experiment_id, charts=True)
        shown = page.inner_text("body")
        assert "delta_top1" in shown and "mean_per_class" in shown and "n_classes" not in shown
        show_models(page, served.mlflow, experiment_id)
        assert "top1" in page.inner_text("body")


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    """Where an empty page of another origin is."""

    def page(handler: BaseHTTPRequestHandler, _before: int) -> None:
        body = b"<!doctype html><title>evil</title><body></body>"
        web.send(handler, body, Content_Type="text/html")

    with web.served({"/": page}) as evil:
        yield int(evil.url.rpartition(":")[2])


def post(url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON, as a program on this machine gets them."""
    given = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), given)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=600) as page:  # noqa: S310 - loopback
            return page.status, json.load(page)
    except urllib.error.HTTPError as error:
        return error.code, None


def runs(served: Served) -> list[Any]:
    """The runs, and the materializations of the corpus."""
    answers = [post(f"{served.dagster}/graphql", {"query": query}) for query in (RUNS, EVENTS)]
    return [answer["data"] for status, answer in answers if status == 200]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "evil.localhost"])
def test_a_page_of_another_origin_launches_and_writes_nothing(
    served: Served, foreign_port: int, name: str
) -> None:
    from docs.screenshots import open_page

    before = runs(served)
    body = {"query": LAUNCH, "variables": {"params": {"selector": SELECTOR, "runConfigData": {}}}}
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
    assert before == runs(served) and len(before) == 2
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
