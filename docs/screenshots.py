"""The pictures of the documentation, taken from the running user interfaces in headless Chromium.

Run after `make demo`: `.venv/bin/python -m docs.screenshots`. Needs Chromium (`apt-get install
chromium`), which Playwright drives. The browser test takes the same steps
(`tests/e2e/test_browser.py`).
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from react_pipeline.tracking.notes import view_url

IMAGES = Path(__file__).parent / "images"
WAIT_MS = 60_000
"""How long a page may take on a busy machine."""

ASSISTANT_SEEN = (
    "try { localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true') } catch {}"
)
"""Else MLflow's assistant opens by itself in a new browser and covers a quarter of the page."""


@contextmanager
def open_page(width: int = 1600, height: int = 900) -> Iterator[Page]:
    """A page of a fresh headless Chromium.

    Raises:
        FileNotFoundError: If there is no Chromium.
    """
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        raise FileNotFoundError("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        # Without a sandbox, as containers often forbid it; only pages of this machine are opened.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(ASSISTANT_SEEN)
        try:
            yield page
        finally:
            browser.close()


def ask_dagster(dagster: str, query: str) -> Any:
    """Answer of Dagster's GraphQL."""
    return _post(f"{dagster}/graphql", {"query": query})["data"]


def find_runs(mlflow: str, experiment: str, condition: str) -> tuple[str, dict[str, str]]:
    """Id of an experiment, and its runs by name that a condition holds for."""
    name = urllib.parse.quote(experiment)
    with urllib.request.urlopen(  # noqa: S310
        f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
    ) as answer:
        experiment_id = json.load(answer)["experiment"]["experiment_id"]
    body = {"experiment_ids": [experiment_id], "filter": condition, "max_results": 1_000}
    runs = _post(f"{mlflow}/api/2.0/mlflow/runs/search", body).get("runs", [])
    return experiment_id, {run["info"]["run_name"]: run["info"]["run_id"] for run in runs}


def show_lineage(page: Page, dagster: str) -> None:
    """The page of all assets, with every group opened."""
    page.goto(f"{dagster}/asset-groups")
    page.get_by_text("Global asset lineage").first.wait_for()
    page.locator(":text-is('customization'):visible").first.wait_for()
    page.keyboard.press("Alt+E")
    page.wait_for_url("**expanded=*customization*")
    page.reload()  # fits the opened groups into the window
    page.locator(":text-is('faiss_index'):visible").first.wait_for()
    page.wait_for_load_state("networkidle")  # the states of assets are loaded in parts


def show_picture(page: Page, dagster: str, asset: str, partition: str) -> None:
    """The first picture in the metadata of an asset's partition."""
    page.goto(f"{dagster}/assets/{asset}?view=partitions&partition={urllib.parse.quote(partition)}")
    page.get_by_text("Show Markdown").first.click()
    picture = page.locator("img[src^='data:image']:visible").first
    picture.wait_for()
    # Dagster's pages forbid the `eval` by which `wait_for_function` looks again and again.
    picture.evaluate("picture => picture.decode()")


def show_hits(page: Page, corpus: str, text: str) -> None:
    """The pairs of the corpus whose captions are nearest to a text."""
    page.goto(f"{corpus}?{urllib.parse.urlencode({'text': text})}")
    page.get_by_text("most similar first").wait_for()
    page.locator("#items img:visible").first.wait_for()
    decode = "Promise.all([...document.images].slice(0, 24).map(i => i.decode().catch(() => 0)))"
    page.evaluate(decode)


def launch_partition(page: Page, dagster: str, asset: str, partition: str) -> None:
    """Materialize one partition of an asset, by clicks alone."""
    page.goto(f"{dagster}/assets/{asset}")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition or create one").click()
    page.locator(f":text-is('{partition}'):visible").last.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()


def show_comparison_of_runs(
    page: Page, mlflow: str, experiment_id: str, run_ids: Sequence[str]
) -> None:
    """MLflow's own page that compares runs."""
    chosen = urllib.parse.quote(json.dumps(list(run_ids)))
    experiments = urllib.parse.quote(json.dumps([experiment_id]))
    page.goto(
        f"{mlflow}/#/compare-runs?runs={chosen}&experiments={experiments}&workflowType=machine_learning"
    )
    page.get_by_text("Run details").first.wait_for()
    page.locator(".js-plotly-plot .main-svg:visible").first.wait_for()


def show_results(page: Page, mlflow: str, experiment_id: str, *, charts: bool = False) -> None:
    """MLflow's table of the results of all methods, best first; or its charts of them."""
    mode = "&compareRunsMode=CHART" if charts else ""
    page.goto(view_url(mlflow, experiment_id) + mode)
    if charts:
        page.locator(".js-plotly-plot .main-svg:visible").first.wait_for()
    else:
        page.locator("[role=gridcell]:has-text('/base')").first.wait_for()


def show_models(page: Page, mlflow: str, experiment_id: str) -> None:
    """MLflow's charts of all models, side by side."""
    # The list of models sorts by time alone; the chart has bars of what was measured of each.
    page.goto(
        f"{mlflow}/#/experiments/{experiment_id}/models?workflowType=machine_learning&viewMode=CHART"
    )
    page.locator(".js-plotly-plot .main-svg:visible").first.wait_for()


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - an address on loopback
        return json.load(answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Start both user interfaces on the demo's results and take every picture."""
    from react_pipeline.extensions.pages.search import CorpusBoard
    from react_pipeline.extensions.pages.server import create_app
    from react_pipeline.extensions.ui import serve_app
    from react_pipeline.extensions.ui.servers import serve
    from react_pipeline.project import Project

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--domain", default="objects")
    arguments = parser.parse_args()
    project = Project.load(arguments.config)
    domain = arguments.domain
    with serve(project, _free_port(), _free_port()) as servers, open_page() as page:
        urls = {server.name: server.url for server in servers}
        dagster, mlflow = urls["dagster"], urls.get("mlflow", project.config.tracking_uri or "")
        ask_dagster(dagster, "mutation { setNuxSeen }")

        def take(name: str) -> None:
            page.wait_for_timeout(2_500)  # until what moves into its place has arrived
            page.screenshot(path=IMAGES / f"{name}.png")
            print(IMAGES / f"{name}.png", flush=True)

        page.set_viewport_size({"width": 1900, "height": 1500})
        show_lineage(page, dagster)
        take("lineage")
        page.set_viewport_size({"width": 1600, "height": 900})
        show_picture(page, dagster, "retrieved_set", domain)
        take("dagster-picture")
        experiment_id, _ = find_runs(mlflow, project.config.project, "tags.asset = 'comparison'")
        show_results(page, mlflow, experiment_id)
        take("mlflow-runs")
        show_models(page, mlflow, experiment_id)
        take("mlflow-models")
        dashboard = project.store.current("comparison", domain).path / "dashboard.html"
        page.goto(dashboard.as_uri())
        take("dashboard")
        page.set_viewport_size({"width": 1400, "height": 900})
        addresses: queue.Queue[str] = queue.Queue()
        app = create_app(CorpusBoard(project))
        served = (lambda: app, 0, addresses.put)
        threading.Thread(target=serve_app, args=served, daemon=True).start()
        show_hits(page, addresses.get(timeout=WAIT_MS / 1000), "a red apple")
        take("browse")


if __name__ == "__main__":
    main()
