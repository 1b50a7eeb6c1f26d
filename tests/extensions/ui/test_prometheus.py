"""Metrics: ticks, runs and the disk, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from react_pipeline.extensions.ui.assets.metrics import metrics_text, serve_metrics
from react_pipeline.project import Project


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def scraped(instance: dg.DagsterInstance) -> dict[tuple[str, str], float]:
    """The value of each metric and label."""
    text = metrics_text(instance).decode()
    return {
        (sample.name.removeprefix("react_"), label): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels.values()
    }


def test_runs_and_the_disk_are_reported(
    instance: dg.DagsterInstance, tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.asset
    def made() -> None: ...

    @dg.asset
    def broken() -> None:
        raise ValueError

    monkeypatch.setenv("REACT_PIPELINE_CONFIG", str(tiny_project.path))
    tiny_project.store.root.mkdir(parents=True)
    dg.materialize([made], instance=instance)
    dg.materialize([broken], instance=instance, raise_on_error=False)
    values = scraped(instance)
    assert values["runs", "SUCCESS"] == values["runs", "FAILURE"] == 1
    assert values["disk_bytes", "total"] >= values["disk_bytes", "free"] > 0


def test_a_tick_that_failed_is_reported(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [SimpleNamespace(instigator_name="upkeep", instigator_origin_id="a", selector_id="b")]
    tick = SimpleNamespace(status=SimpleNamespace(value="FAILURE"), timestamp=12.0)
    monkeypatch.setattr(instance, "all_instigator_state", lambda: states)
    monkeypatch.setattr(instance, "get_ticks", lambda *_, limit: [tick])
    values = scraped(instance)
    assert values["tick_failed", "upkeep"] == 1 and values["tick_timestamp_seconds", "upkeep"] == 12


def test_their_own_port_has_figures_for_any_host(
    instance: dg.DagsterInstance,
) -> None:
    server = serve_metrics(0, instance)
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        pod = {"Host": "10.1.2.3:9464"}  # as Prometheus asks a pod; the guard would refuse it
        asked = requests.get(f"{address}/metrics", headers=pod, timeout=30)
        assert asked.status_code == 200 and "react_runs" in asked.text
        assert requests.post(f"{address}/graphql", json={}, timeout=30).status_code == 405
    finally:
        server.shutdown()
        server.server_close()
