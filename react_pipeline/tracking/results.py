"""What accompanies a result's own figures in MLflow, so that its compare page and charts need no
other run.

Every result has the same keys, the base too: `top1`, `top5`, `mean_per_class`, `n`, `pairs`,
`trainable_parameters`, `training_seconds`, and `delta_top1`, `delta_top1_low`, `delta_top1_high`
once a comparison holds it; a method with a control has `gain_over_control` and its bounds as well.
`judged_delta` and `judged_gain` come from a person's judgements of pictures without labels, not
from measuring.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pandas as pd

from react_pipeline.evaluation import JUDGED, MEAN, METRICS, RESULTS, TRAINED
from react_pipeline.evaluation import STAGE as OVERVIEW
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import Artifact, CorruptArtifact, read_manifest
from react_pipeline.tracking.values import Row, created_ms

COSTS = {
    "pairs": "pairs",
    "trainable_parameters": "trainable_parameters",
    "seconds": "training_seconds",
}
"""Counts of a training, and what a result's run calls them (its own `seconds` are those of
measuring).
"""

_TO_BASE = {
    "delta_top1": "delta_top1",
    "delta_low": "delta_top1_low",
    "delta_high": "delta_top1_high",
}
DIFFERENCES = {
    **_TO_BASE,
    **{"gain_over_control": "gain_over_control", "gain_low": "gain_over_control_low"},
    "gain_high": "gain_over_control_high",
    **{name: name for name in (*JUDGED, "judged")},
}
"""Columns of a comparison's table, and what a result's run calls them."""


def cost_rows(project: Project, artifact: Artifact) -> Iterator[Row]:
    """What the training behind a result cost (0 for the base), or a training's own seconds under
    that name.
    """
    counts: Mapping[str, object] = {}
    if artifact.stage == TRAINED:
        counts = {"seconds": artifact.counts.get("seconds")}
    elif artifact.stage == RESULTS and TRAINED not in artifact.parents:
        counts = dict.fromkeys(COSTS, 0)
    elif artifact.stage == RESULTS:
        path = project.store.directory(TRAINED, artifact.key) / artifact.parents[TRAINED]
        with suppress(CorruptArtifact):  # pruned: the result stays what it is
            # The manifest has its own digest; hashing gigabytes of weights for three numbers is not
            # needed.
            counts = read_manifest(path, TRAINED)["counts"]
    for name, shown in COSTS.items():
        if isinstance(value := counts.get(name), int | float):
            yield Row(shown, float(value), 0, created_ms(artifact))


def difference_rows(comparison: Artifact) -> dict[str, list[Row]]:
    """By method, the differences that a comparison found, for the runs of the results it was made
    from.
    """
    return {str(row["method"]): _rows(comparison, row, DIFFERENCES) for row in _table(comparison)}


def best_of(report: Artifact) -> tuple[dict[str, str], list[Row]]:
    """Tags and figures of the trained method with the highest top-1, for the run above all runs of
    a domain.

    Of an overview it is the highest mean. A figure that the best method lacks and another one had
    before keeps its old value in MLflow, so the gain over the control, which not every method has,
    is a tag.
    """
    means = [row for row in _table(report) if report.stage != OVERVIEW or row["domain"] == MEAN]
    known = [row for row in means if pd.notna(row["top1"]) and pd.notna(row["delta_top1"])]
    trained = [
        row
        for row in known
        if row["method"] != "base" and not row["method"].endswith(CONTROL_SUFFIX)
    ]
    if not trained:
        return {}, []
    best = max(trained, key=lambda row: float(row["top1"]))
    gain, low, high = (best[name] for name in ("gain_over_control", "gain_low", "gain_high"))
    gained = (
        "no control"
        if pd.isna(gain)
        else f"{gain:+.4f}" + ("" if pd.isna(low) else f" ({low:+.4f} to {high:+.4f})")
    )
    names = {name: name for name in METRICS} | _TO_BASE
    return {"best_method": str(best["method"]), "gain_over_control": gained}, _rows(
        report, best, names
    )


def _table(report: Artifact) -> list[dict[str, Any]]:
    if "table.parquet" not in report.manifest["files"]:
        return []
    records: list[dict[str, Any]] = pd.read_parquet(report.file("table.parquet")).to_dict("records")
    return records


def _rows(report: Artifact, row: dict[str, Any], names: Mapping[str, str]) -> list[Row]:
    values = ((shown, row.get(column)) for column, shown in names.items())
    found = [
        (name, float(value)) for name, value in values if value is not None and math.isfinite(value)
    ]
    return [Row(name, value, 0, created_ms(report)) for name, value in found]
