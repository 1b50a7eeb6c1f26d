"""In a real browser: what people see of both user interfaces, by clicks; that nothing is done of
what a page of another origin asks them; and that a password that all of it needs is shown nowhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import PIPELINE, write_project
from support import web
from support.services import (
    answer,
    command,
    command_lines,
    free_port,
    postgres,
    program,
    running,
)

from react_pipeline.project.project import Project
from react_pipeline.settings.files import TRACKING_VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.operations]

METHODS = ("base", "gated-image")
SECRET = "planted-5ecret"  # noqa: S105 - of a test

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
    """A small project with results in an MLflow that needs a password: where its two user
    interfaces answer, their parent process, and what commands printed.
    """

    project: Project
    dagster: str
    mlflow: str
    pid: int
    shown: dict[str, str]


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, drawings: Path
) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    training = {**PIPELINE["customization"]["defaults"], "processes": 2}
    project = write_project(
        directory, tiny_checkpoint, drawings, customization={"defaults": training}
    )
    with postgres(directory / "server") as server:
        uri = server.replace("postgresql://react@", f"postgresql+psycopg2://react:{SECRET}@")
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(directory / "dagster_home"),
            TRACKING_VARIABLE: f"{uri}/mlflow",
            "MLFLOW_TRACKING_PASSWORD": SECRET,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        methods = [word for method in METHODS for word in ("--method", method)]
        shown = {}
        for words in (
            ["materialize", "--domain", "shapes", *methods],
            ["doctor"],
            ["status"],
            ["results"],
        ):
            done = subprocess.run(
                command(project, *words),
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
            )
            shown[words[0]] = done.stdout + done.stderr
            assert done.returncode == 0, shown[words[0]]
        dagster, mlflow = free_port(), free_port()
        ui = command(project, "ui", "--dagster-port", str(dagster), "--mlflow-port", str(mlflow))
        with running(ui, directory / "ui.log", env=environment) as servers:
            urls = f"http://127.0.0.1:{dagster}", f"http://127.0.0.1:{mlflow}"
            assert answer(f"{urls[0]}/server_info")[0] == 200
            assert answer(f"{urls[1]}/health")[0] == 200
            from docs.screenshots import ask_dagster

            ask_dagster(urls[0], "mutation { setNuxSeen }")
            yield Served(project, *urls, servers.pid, shown)


@pytest.fixture
def browser() -> Callable[..., Any]:
    program("chromium", "chromium")
    from docs.screenshots import open_page

    return open_page


def test_retrieved_pictures_are_shown(served: Served, browser: Callable[..., Any]) -> None:
    from docs.screenshots import show_picture

    with browser() as page:
        show_picture(page, served.dagster, "retrieved_set", "shapes")
        picture = page.locator("img[src^='data:image']:visible").first
        assert picture.evaluate("picture => picture.naturalWidth") > 100


def test_partition_launched_by_clicks_is_materialized(
    served: Served, browser: Callable[..., Any]
) -> None:
    from docs.screenshots import ask_dagster, launch_partition

    query = "{runsOrError{... on Runs{results{status assetSelection{path} tags{key value}}}}}"
    with browser() as page:
        launch_partition(page, served.dagster, "evaluation_set", "colours")
        deadline = time.monotonic() + 600
        states: list[str] = []
        while time.monotonic() < deadline and states[:1] not in (["SUCCESS"], ["FAILURE"]):
            page.wait_for_timeout(300)
            runs = ask_dagster(served.dagster, query)["runsOrError"]["results"]
            states = [
                run["status"]
                for run in runs
                if run["assetSelection"] == [{"path": ["evaluation_set"]}]
                and {"key": "dagster/partition", "value": "colours"} in run["tags"]
            ]
        assert states[:1] == ["SUCCESS"]
    assert served.project.store.current("evaluation_set", "colours").counts["images"] > 0


def test_mlflow_shows_results_and_models_without_a_search(
    served: Served, browser: Callable[..., Any]
) -> None:
    from docs.screenshots import find_runs, show_models, show_results

    experiment_id, _ = find_runs(served.mlflow, "tiny", "tags.asset = 'domain_results'")
    with browser(2200) as page:
        show_results(page, served.mlflow, experiment_id)
        shown = page.inner_text("body")
        assert all(word in shown for word in (*METHODS, "top1", "delta_top1", "training_seconds"))
        # Neither the corpus nor any other run that measures nothing is among them.
        assert page.get_by_text("2 matching runs").is_visible() and "retrieved_set" not in shown
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
    served: Served, browser: Callable[..., Any], foreign_port: int, name: str
) -> None:
    before = runs(served)
    body = {"query": LAUNCH, "variables": {"params": {"selector": SELECTOR, "runConfigData": {}}}}
    url = f"{served.dagster}/graphql?query={quote(LAUNCH)}&variables={quote(json.dumps(body['variables']))}"
    statuses: dict[str, list[int]] = {}
    with browser() as page:
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


def test_a_planted_password_is_nowhere_to_read(served: Served) -> None:  # FAULTS 52
    status, page = answer(f"{served.mlflow}/api/2.0/mlflow/experiments/search?max_results=9")
    assert status == 200 and served.project.config.project.encode() in page
    arguments = "\n".join(map(" ".join, command_lines(served.pid).values()))
    assert "mlflow server" in arguments and "…@127.0.0.1" in served.shown["doctor"]
    shown = {**served.shown, "arguments": arguments, "page": page.decode()}
    assert not [name for name, text in shown.items() if SECRET in text]
    folder, found = served.project.path.parent, {}
    for top, _, files in os.walk(folder):  # passes over what the running servers remove
        for path in (Path(top, name) for name in files):
            with suppress(OSError):  # removed meanwhile, or a socket
                if path.is_file() and not path.is_symlink():
                    found[path] = SECRET.encode() in path.read_bytes()
    assert not (folder / "mlruns").exists()
    names = {"dashboard.html", "ui.log", "postgres.log", "runs.db"}
    assert names <= {path.name for path in found} and not [*filter(found.get, found)]
