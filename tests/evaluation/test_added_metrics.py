"""Metrics of extensions: part of results and of their identity, from measuring to the tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from react_pipeline import extension
from react_pipeline.evaluation import (
    EvalResult,
    Metric,
    Scores,
    compare,
    comparison_table,
    evaluate,
    metrics,
    table_cells,
)
from react_pipeline.extension import Extension, extensions
from react_pipeline.project import Project
from react_pipeline.store import InputError

PAGE = Path(__file__).parents[2] / "docs" / "extensions.md"


def share_in_top_two(scores: Scores) -> Any:
    assert scores.logits.shape == (len(scores.class_ids), len(scores.class_names))
    return scores.hits[:, :2].any(axis=1).mean()


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


def test_results_are_measured_again_with_a_new_metric(
    project: Project, install: Callable[..., None]
) -> None:
    before = evaluate(project, "shapes", "base")
    install(Metric("top2", "top-2 %", share_in_top_two))
    after = evaluate(project, "shapes", "base")
    value: Any = EvalResult.read(after)
    assert before.fingerprint != after.fingerprint and "top2" not in before.counts
    assert value.top1 <= value.top2 == after.counts["top2"] <= value.top5
    install(Metric("top2", "top-2 %", share_in_top_two, version="2"))
    assert evaluate(project, "shapes", "base").fingerprint != after.fingerprint
    install()
    assert evaluate(project, "shapes", "base").fingerprint == before.fingerprint


def test_tables_show_a_metric_of_an_extension(
    project: Project, install: Callable[..., None]
) -> None:
    install(Metric("half", "half %", lambda _: 0.5))
    evaluate(project, "shapes", "base")
    compare(project, "shapes")
    heads, rows = table_cells(comparison_table(project, ["shapes"]), ())
    assert heads["half"] == "half %"
    assert [cell.text for row in rows for cell in row if cell.column == "half"] == ["50.0"] * 2


def test_the_metric_of_the_page_is_one() -> None:
    section = PAGE.read_text().split("## A metric")[1]
    names: dict[str, Any] = {"Extension": Extension}
    exec(section.split("```python\n")[1].split("```")[0], names)  # noqa: S102 - our own page
    (metric,) = names["Mine"]().metrics()
    ranked = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])
    scores = Scores(ranked, np.zeros(2, int), list("abcd"), np.zeros((2, 4), np.float32))
    assert metric.name == "top3" and metric.value(scores) == 0.5


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
    install(Metric(name, "mine", share_in_top_two))
    with pytest.raises(InputError, match=repr(name)):
        len(metrics.METRICS)
