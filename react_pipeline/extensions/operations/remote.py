"""Launching on a server: a Dagster webserver is asked for what a selection names.

Belongs here: the request, and waiting for its end. Does not belong here: which artifacts a
selection names (`react_pipeline.assets`), in which order they are built: they are one backfill, and
Dagster's daemon starts a run when what it needs is there.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from react_pipeline.assets import (
    COMMAND_LINE,
    USER_TAG,
    ProjectResource,
    build_defs,
    name_of,
    named,
    plan,
)
from react_pipeline.project import Project
from react_pipeline.settings import load_domains
from react_pipeline.stage import Place
from react_pipeline.stop import raise_if_stopped
from react_pipeline.store import InputError

POLL_SECONDS = 5.0
ANSWER_SECONDS = 60.0
MAX_FAILURES = 60
"""Polls in a row without an answer, as while the server restarts."""

_LAUNCH = """mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}"""
_STATUS = """query($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status assetBackfillData { assetBackfillStatuses {
      ... on AssetPartitionsStatusCounts {
        assetKey { path } numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed
      }
      ... on UnpartitionedAssetStatus { assetKey { path } materialized failed }
    } } }
    ... on Error { message }
  }
}"""
_ENDS = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}


def materialize_remotely(
    url: str,
    selection: str = "*",
    domains: Sequence[str] = (),
    methods: Sequence[str] = (),
    config_path: Path | str | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> bool:
    """Let a server build a selection of assets, and wait; returns whether all succeeded.

    The server reads its own `pipeline.yaml` and domain files; those here only say what there is to
    ask for. A step whose artifact is up to date reuses it. A stop ends the wait, not the runs.

    All other arguments are as of `launch.materialize`.

    Args:
        url: Of the webserver, such as `https://dagster.example.com`; a password is read from
            `~/.netrc`.

    Raises:
        InputError: If the server refuses, or does not answer.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"--remote {url}: begin the address with http:// or https://")
    project = Project.load(config_path)
    methods = methods or project.config.methods
    for method in methods:
        project.method(method)
    slugs = list(domains) or sorted(load_domains(project.config.domains)[0])
    defs = build_defs(methods, project=ProjectResource(config_path=str(project.path)))
    places = plan(defs, selection, slugs, methods, project.config.all_methods)
    params = {
        "partitionsByAssets": _partitions_by_assets(places),
        "tags": [{"key": USER_TAG, "value": COMMAND_LINE}],
        "title": "react-pipeline materialize",
    }
    launched = _ask(url, _LAUNCH, {"params": params})["launchPartitionBackfill"]
    if "backfillId" not in launched:
        problem = launched.get("message") or launched["__typename"]
        raise InputError(f"--remote {url}: {problem}; {named(places[0])} was the first asked for")
    on_line(f"{url.rstrip('/')}/runs/b/{launched['backfillId']}")
    return _wait(url, launched["backfillId"], on_line)


def _partitions_by_assets(places: Sequence[Place]) -> list[dict[str, Any]]:
    selectors: dict[str, dict[str, Any]] = {}
    for stage, key in places:
        selector = selectors.setdefault(stage, {"assetKey": {"path": [stage]}})
        if (name := name_of(key)) is not None:
            ranges = selector.setdefault("partitions", {"ranges": []})["ranges"]
            ranges.append({"start": name, "end": name})
    return list(selectors.values())


def _wait(url: str, backfill: str, on_line: Callable[[str], None]) -> bool:
    before = ""
    failures = 0
    while True:
        raise_if_stopped()
        try:
            look = _ask(url, _STATUS, {"id": backfill})["partitionBackfillOrError"]
            failures = 0
        except InputError:
            failures += 1
            if failures > MAX_FAILURES:
                raise
            look = {}
        if line := _progress(look):
            if line != before:
                on_line(line)
            before = line
        if look.get("status") in _ENDS:
            return look["status"] in ("COMPLETED", "COMPLETED_SUCCESS")
        time.sleep(POLL_SECONDS)


def _progress(look: dict[str, Any]) -> str:
    """How many artifacts are made, and of which assets some failed; "" before that is known."""
    rows = (look.get("assetBackfillData") or {}).get("assetBackfillStatuses") or []
    if not rows:
        return ""
    made = sum(row.get("numPartitionsMaterialized", row.get("materialized")) for row in rows)
    targeted = sum(row.get("numPartitionsTargeted", 1) for row in rows)
    failures = [
        row["assetKey"]["path"][-1]
        for row in rows
        if row.get("numPartitionsFailed") or row.get("failed")
    ]
    text = f"{made} of {targeted} made"
    return f"{text}; failed: {', '.join(failures)}" if failures else text


def _ask(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """The data that a webserver answers.

    Raises:
        InputError: If it does not answer, or not with data.
    """
    body: dict[str, Any] = {"query": query, "variables": variables}
    try:
        answer = requests.post(f"{url.rstrip('/')}/graphql", json=body, timeout=ANSWER_SECONDS)
        if answer.status_code == requests.codes.unauthorized:
            host = urlsplit(url).hostname
            raise InputError(
                f"--remote {url}: asks for a password, or for another one; write into ~/.netrc: "
                f"machine {host} login NAME password PASSWORD"
            )
        content = answer.json()
        if problems := content.get("errors"):  # such as an unknown partition
            raise InputError(f"--remote {url}: {problems[0]['message']}")
        if not content.get("data"):
            answer.raise_for_status()
        return dict(content["data"])  # with status 500 if it holds an error of Dagster's
    except (requests.RequestException, ValueError, AttributeError, LookupError, TypeError) as error:
        raise InputError(f"--remote {url}: {error}; is this a Dagster webserver?") from error
