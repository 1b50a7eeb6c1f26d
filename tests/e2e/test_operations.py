"""Nobody at the keyboard: a real webserver, daemon and MLflow server; a file is dropped, later the
corpus grows.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import write_project
from support.drawings import COLOURS, SHAPES, pair, write_shard
from support.services import user_interfaces

from react_pipeline.project.project import Project
from react_pipeline.store.errors import ReactError

pytestmark = [pytest.mark.slow, pytest.mark.operations]

METHODS = ["base", "gated-image", "gated-image-control"]
PATIENCE_SECONDS = 900
"""On a machine that does nothing else the whole chain takes three minutes."""


@dataclass(frozen=True)
class Running:
    """A project that looks after itself, and where its servers answer."""

    project: Project
    dagster: str
    mlflow: str


@pytest.fixture(scope="module")
def running_project(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, drawings: Path
) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("operations")
    shards = directory / "shards"
    shutil.copytree(drawings / "shards", shards)
    sections = {
        "methods": METHODS,
        "automation": {"enabled": True, "interval_seconds": 5, "changed_fraction": 0.05},
        "corpus": {"shards": [f"{shards}/*.tar"]},
        # Random towers find nothing for some classes, which would rightly stop the chain.
        "retrieval": {"max_starving_fraction": 1.0},
    }
    project = write_project(directory, tiny_checkpoint, drawings, **sections)
    # Waits outside for its turn.
    (project.config.domains / "shapes.yaml").rename(directory / "shapes.yaml")
    (project.config.domains / "colours.yaml").unlink()
    with user_interfaces(project) as (dagster, mlflow):
        yield Running(project, dagster, mlflow)


def runs(served: Running) -> list[dict[str, Any]]:
    from docs.screenshots import ask_dagster

    query = "{runsOrError{... on Runs{results{status assetSelection{path} tags{key value}}}}}"
    found: list[dict[str, Any]] = ask_dagster(served.dagster, query)["runsOrError"]["results"]
    return found


def places(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Asset and partition of everything that a run makes."""
    partition = next((tag["value"] for tag in run["tags"] if tag["key"] == "dagster/partition"), "")
    return [(selected["path"][-1], partition) for selected in run["assetSelection"]]


def eventually(served: Running, what: str, attempt: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if found := attempt():
                return found
        except ReactError:
            pass
        failed = [run for run in runs(served) if run["status"] == "FAILURE"]
        assert not failed, f"while waiting for {what}: {failed}"
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(2)


def test_a_dropped_domain_file_becomes_a_model(
    running_project: Running,
) -> None:
    from mlflow import MlflowClient

    project, client = (
        running_project.project,
        MlflowClient(running_project.mlflow, running_project.mlflow),
    )
    store = project.store
    waiting = project.path.parent / "shapes.yaml"
    waiting.rename(project.config.domains / "shapes.yaml")

    promotion = eventually(
        running_project, "promotion", lambda: store.current("promotion", "shapes")
    )
    overview = eventually(running_project, "overview", lambda: store.current("overview", "all"))
    first = store.current("customized_checkpoint", "shapes/gated-image")
    comparison = store.current("comparison", "shapes")
    assert sorted(comparison.counts["methods"]) == sorted(METHODS)
    assert (comparison.path / "dashboard.html").exists()
    assert overview.parents
    assert promotion.parents

    def registered(fingerprint: str) -> Any:
        found = client.search_model_versions("name = 'react-shapes'")
        return next(
            (version for version in found if version.tags.get("fingerprint") == fingerprint), None
        )

    eventually(running_project, "a registry entry", lambda: registered(first.fingerprint))
    challenger = eventually(
        running_project,
        "a challenger",
        lambda: client.get_registered_model("react-shapes").aliases.get("challenger"),
    )
    assert registered(first.fingerprint).version == challenger

    times = Counter(place for run in runs(running_project) for place in places(run))
    assert set(times.values()) == {1}, f"asked for more than once: {times}"

    pairs = store.current("retrieved_set", "shapes")
    samples = {
        f"new{number:04d}": pair(
            SHAPES[number % 4], COLOURS[number // 4 % 4], 700 + number, "png", number=700 + number
        )
        for number in range(64)
    }
    # Renamed when it is whole, as a copy of a large shard should be: a half one is no tar.
    written = write_shard(project.path.parent / "new.part", samples)
    written.rename(project.path.parent / "shards" / "00003.tar")
    grown = eventually(
        running_project,
        "a grown corpus",
        lambda: (found := store.current("corpus", "all")).counts["shards"] > 3 and found,
    )
    assert grown.counts["shards"] == 4
    eventually(
        running_project,
        "new pairs",
        lambda: store.current("retrieved_set", "shapes").fingerprint != pairs.fingerprint,
    )
    eventually(
        running_project,
        "a new training",
        lambda: (
            store.current("customized_checkpoint", "shapes/gated-image").fingerprint
            != first.fingerprint
        ),
    )
