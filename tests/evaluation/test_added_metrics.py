"""Metrics of extensions: part of results and of their identity, from measuring to the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from react_pipeline import extension
from react_pipeline.evaluation import (
    EvalResult,
    Metric,
    compare,
    comparison_table,
    evaluate,
    metrics,
    percent,
    table_cells,
)
from react_pipeline.extension import Extension, extensions
from react_pipeline.project import Project
from react_pipeline.store import InputError

PAGE = Path(__file__).parents[2] / "docs" / "extensions.md"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    real = extensions()

    def put(*brought: Metric) -> None:
        mine = type("Mine", (Extension,), {"metrics": lambda _: brought})()
        monkeypatch.setattr(extension, "extensions", lambda: {**real, "mine": mine})

    monkeypatch.setattr(metrics, "_metrics", metrics._metrics.__wrapped__)
    return put


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    return retrieved_project


def metric_of_page() -> Metric:
    section = PAGE.read_text().split("## A metric")[1]
    names: dict[str, Any] = {"Extension": Extension}
    exec(section.split("```python\n")[1].split("```")[0], names)  # noqa: S102 - our own page
    (metric,) = names["Mine"]().metrics()
    return metric


def test_results_and_tables_have_a_new_metric_until_it_goes(
    project: Project, install: Callable[..., None]
) -> None:
    before = evaluate(project, "shapes", "base")
    install(metric_of_page())
    after = evaluate(project, "shapes", "base")
    value: Any = EvalResult.read(after)
    assert before.fingerprint != after.fingerprint and "top3" not in before.counts
    assert value.top1 <= value.top3 == after.counts["top3"] <= value.top5
    compare(project, "shapes")
    heads, rows = table_cells(comparison_table(project, ["shapes"]), ())
    shown = [cell.text for row in rows for cell in row if cell.column == "top3"]
    assert heads["top3"] == metric_of_page().heading and shown == [percent(value.top3)] * 2
    install(replace(metric_of_page(), version="9"))
    assert evaluate(project, "shapes", "base").fingerprint != after.fingerprint
    install()
    assert evaluate(project, "shapes", "base").fingerprint == before.fingerprint


@pytest.mark.parametrize("value", [lambda _: 1 / 0, lambda _: float("nan")])
def test_no_result_lacks_a_metric(
    value: Callable[..., float], project: Project, install: Callable[..., None]
) -> None:
    install(Metric("broken", "broken %", value))
    with pytest.raises(InputError, match="metric broken"):
        evaluate(project, "shapes", "base")
    assert project.store.keys("domain_results") == []


@pytest.mark.parametrize("name", ["top1", "delta_top1", "unavailable", "pairs", "top-2"])
def test_a_metric_has_a_name_of_its_own(name: str, install: Callable[..., None]) -> None:
    install(Metric(name, "mine", lambda _: 0.5))
    with pytest.raises(InputError, match=repr(name)):
        len(metrics.METRICS)
