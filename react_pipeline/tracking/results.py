"""What accompanies a result's own figures in MLflow, so that its compare page and charts need no other run.

Belongs here: what the training behind a result cost, and its differences to the base and to its control. Does not
belong here: the result's own metrics (`tracking.values`), writing them (`tracking`).

Every result has the same keys, the base too: `top1`, `top5`, `mean_per_class`, `n`, `pairs`, `trainable_parameters`,
`training_seconds`, and `delta_top1`, `delta_top1_low`, `delta_top1_high` once a comparison holds it; a method with a
control has `gain_over_control` and its bounds as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from react_pipeline.evaluation import RESULTS, TRAINED
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorruptArtifact, read_manifest
from react_pipeline.tracking.values import Row, created_ms

COSTS = {"pairs": "pairs", "trainable_parameters": "trainable_parameters", "seconds": "training_seconds"}
"""Counts of a training, and what a result's run calls them (its own `seconds` are those of measuring)."""

DIFFERENCES = {
    **{"delta_top1": "delta_top1", "delta_low": "delta_top1_low", "delta_high": "delta_top1_high"},
    **{"gain_over_control": "gain_over_control", "gain_low": "gain_over_control_low"},
    "gain_high": "gain_over_control_high",
}
"""Columns of a comparison's table, and what a result's run calls them."""


def cost_rows(project: Project, artifact: Artifact) -> Iterator[Row]:
    """What the training behind a result cost (0 for the base), or a training's own seconds under that name."""
    created = created_ms(artifact)
    if artifact.stage == TRAINED and "seconds" in artifact.counts:
        yield Row("training_seconds", float(artifact.counts["seconds"]), 0, created)
    if artifact.stage != RESULTS:
        return
    counts: dict[str, object] = dict.fromkeys(COSTS, 0)
    if (fingerprint := artifact.parents.get(TRAINED)) is not None:
        path = project.store.directory(TRAINED, artifact.key) / fingerprint
        try:
            # The manifest vouches for itself; hashing gigabytes of weights for three numbers is not needed.
            counts = read_manifest(path, TRAINED)["counts"]
        except CorruptArtifact:
            return  # pruned: the result stays what it is
    for name, shown in COSTS.items():
        if isinstance(value := counts.get(name), int | float):
            yield Row(shown, float(value), 0, created)


def difference_rows(comparison: Artifact) -> dict[str, list[Row]]:
    """By method, the differences that a comparison found, for the runs of the results it was made from."""
    table = (
        pd.read_parquet(comparison.file("table.parquet")) if "table.parquet" in comparison.manifest["files"] else None
    )
    rows: dict[str, list[Row]] = {}
    for row in () if table is None else table.to_dict("records"):
        values = ((shown, row.get(column)) for column, shown in DIFFERENCES.items())
        found = [(name, float(value)) for name, value in values if value is not None and math.isfinite(value)]
        rows[str(row["method"])] = [Row(name, value, 0, created_ms(comparison)) for name, value in found]
    return rows
