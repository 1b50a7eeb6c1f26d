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
        yield from _disk()
        refused = CounterMetricFamily(
            "react_refused", "Requests that this server refused.", labels=["status"]
        )
        for (_, status), number in REFUSALS.items():
            refused.add_metric([str(status)], number)
        yield refused


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
