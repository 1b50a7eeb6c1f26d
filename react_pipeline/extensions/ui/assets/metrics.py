"""Metrics: what Prometheus reads of a Dagster instance, at a port of their own.

Belongs here: which figures there are. All are read from the instance's database, by its indices,
and from the file system's own counters: no scrape walks the store.
"""

import shutil
from collections.abc import Iterator, Mapping
from typing import Any
from wsgiref.simple_server import WSGIServer

import dagster as dg
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from react_pipeline.assets import last_ticks
from react_pipeline.extensions.ui.refusals import REFUSALS
from react_pipeline.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store import ReactError

PORT_VARIABLE = "REACT_METRICS_PORT"
"""Names the port of the metrics, which any host may read: a client of it can start nothing."""


class Metrics:
    """A collector of `prometheus_client`."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        """`instance`: all projects and other assets in it are counted."""
        self._instance = instance

    def collect(self) -> Iterator[Metric]:
        """All families."""
        ticks = dict(last_ticks(self._instance))
        failed = {name: tick.status.value == "FAILURE" for name, tick in ticks.items()}
        times = {name: tick.timestamp for name, tick in ticks.items()}
        yield _gauge("tick_timestamp_seconds", "Start of the last tick.", "name", times)
        yield _gauge("tick_failed", "Whether the last tick failed.", "name", failed)
        counts = {
            status.value: self._instance.get_runs_count(dg.RunsFilter(statuses=[status]))
            for status in dg.DagsterRunStatus
        }
        yield _gauge("runs", "Runs by their state.", "status", counts)
        keys = list(self._instance.get_asset_keys())
        yield from self._materializations(keys)
        yield from _disk()
        refused = CounterMetricFamily(
            "react_refused", "Requests that this server refused.", labels=["status"]
        )
        for (_, status), number in REFUSALS.items():
            refused.add_metric([str(status)], number)
        yield refused

    def _materializations(self, keys: list[dg.AssetKey]) -> Iterator[GaugeMetricFamily]:
        last = {
            record.asset_entry.asset_key.to_user_string(): event
            for record in self._instance.get_asset_records(keys)
            if (event := record.asset_entry.last_materialization_record)
        }
        sizes, seconds = {}, {}
        for name, event in last.items():
            made = event.asset_materialization
            if made and "bytes" in made.metadata:
                sizes[name] = made.metadata["bytes"].value
            if made and made.asset_key.path[-1] in STAGES:  # each is a query
                step = "__".join(made.asset_key.path)
                for stats in self._instance.get_run_step_stats(event.run_id, [step]):
                    if stats.start_time and stats.end_time:
                        seconds[name] = stats.end_time - stats.start_time
        times = {name: event.timestamp for name, event in last.items()}
        label = "asset"
        yield _gauge("materialization_timestamp_seconds", "Last materialization.", label, times)
        yield _gauge("materialization_bytes", "Size of the last artifact.", label, sizes)
        yield _gauge("step_seconds", "Duration of the step that made it.", label, seconds)


def metrics_text(instance: dg.DagsterInstance) -> bytes:
    """All metrics in the text format of Prometheus."""
    return generate_latest(_registry(instance))


def serve_metrics(port: int, instance: dg.DagsterInstance) -> WSGIServer:
    """Answer with the metrics at a port of their own, in a thread."""
    return start_http_server(port, registry=_registry(instance))[0]


def _registry(instance: dg.DagsterInstance) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Metrics(instance))
    return registry


def _disk() -> Iterator[GaugeMetricFamily]:
    """Of the store of the project that the environment names, if there is one."""
    try:
        usage = shutil.disk_usage(Project.load().store.root)
    except (ReactError, OSError):
        return
    disk = {"free": usage.free, "total": usage.total}
    yield _gauge("disk_bytes", "The disk of the store.", "kind", disk)


def _gauge(name: str, text: str, label: str, values: Mapping[str, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"react_{name}", text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], float(number))
    return family
