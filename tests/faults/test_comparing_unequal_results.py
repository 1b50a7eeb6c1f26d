"""FAULTS 32: a result of another evaluator or other images shares no table with today's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from support.promotion import evaluation_set, outcomes, result

from react_pipeline import stage
from react_pipeline.evaluation import compare
from react_pipeline.project import Project
from react_pipeline.stage import STAGES


@pytest.mark.parametrize(("changed", "word"), [("images", "evaluation_set"), ("code", "version")])
def test_a_result_measured_otherwise_is_left_out(
    make_project: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
    word: str,
) -> None:
    project = make_project(methods=["base", "gated-image"])
    for method in ("base", "gated-image"):
        result(project, "shapes", method, outcomes(100))
    if changed == "images":
        evaluation_set(project, "shapes", version=2)
    else:
        row = replace(STAGES["domain_results"], version="next")
        rows = {**STAGES, "domain_results": row}
        monkeypatch.setattr(stage, "_rows", lambda: rows)
    result(project, "shapes", "base", outcomes(100))
    table = pd.read_parquet(compare(project, "shapes").file("table.parquet"))
    base, other = table.to_dict("records")
    assert base["status"] == "ok"
    assert other["status"].startswith("stale: ") and word in other["status"]
    assert pd.isna(other["top1"])
