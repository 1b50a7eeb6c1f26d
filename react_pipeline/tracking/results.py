"""Figures that are added to the run of a result, so that MLflow's compare page and charts need no
other run.

Every result has the same keys, the base too: `top1`, `top5`, `mean_per_class`, `n`, `pairs`,
`trainable_parameters`, `training_seconds`, and `delta_top1`, `delta_top1_low`, `delta_top1_high`
once a comparison holds it; a method with a control has `gain_over_control` and its bounds as well.
The columns of evidence are not measured on labels. Of several seeds, the first has mean and
standard deviation over all (`tables.SEED_COLUMNS`).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress

import pandas as pd

from react_pipeline.evaluation import EVIDENCE_COLUMNS, EVIDENCE_DIFFERENCES, SEED_COLUMNS
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS
from react_pipeline.store import Artifact, CorruptArtifact, MissingArtifact
from react_pipeline.tracking.values import Row, created_ms

COST_METRICS = {
    "pairs": "pairs",
    "trainable_parameters": "trainable_parameters",
    "seconds": "training_seconds",
}
"""Counts of a training, and what a result's run calls them (its own `seconds` are those of
measuring).
"""

DIFFERENCE_METRICS = {
    "delta_top1": "delta_top1",
    "delta_low": "delta_top1_low",
    "delta_high": "delta_top1_high",
    "gain_over_control": "gain_over_control",
    "gain_low": "gain_over_control_low",
    "gain_high": "gain_over_control_high",
}
"""Columns of a comparison's table, and what a result's run calls them."""


def cost_rows(artifact: Artifact) -> Iterator[Row]:
    """Yield what the training behind a result cost (0 for the base), or a training's own seconds
    under that name.
    """
    counts: Mapping[str, object] = {}
    if artifact.stage == CUSTOMIZED_CHECKPOINT:
        counts = {"seconds": artifact.counts.get("seconds")}
    elif artifact.stage == DOMAIN_RESULTS and CUSTOMIZED_CHECKPOINT not in artifact.parents:
        counts = dict.fromkeys(COST_METRICS, 0)
    elif artifact.stage == DOMAIN_RESULTS:
        with suppress(CorruptArtifact, MissingArtifact):  # pruned
            counts = artifact.open_parent(CUSTOMIZED_CHECKPOINT).counts
    for name, shown in COST_METRICS.items():
        if isinstance(value := counts.get(name), int | float):
            yield Row(shown, float(value), 0, created_ms(artifact))


def difference_rows(comparison: Artifact) -> dict[str, list[Row]]:
    """Return, by method, the differences that a comparison found, for the runs of the results it
    was made from.
    """
    added = [*SEED_COLUMNS, *EVIDENCE_COLUMNS]
    shown = DIFFERENCE_METRICS | {name: name for name in added}
    table = pd.read_parquet(comparison.file("table.parquet")).set_index("method")
    table = table.rename(columns=shown).reindex(columns=list(shown.values())).astype("float64")
    created = created_ms(comparison)
    return {
        str(method): [
            Row(name, float(value), 0, created)
            for name, value in row.items()
            if math.isfinite(value)
        ]
        for method, row in table.to_dict("index").items()
    }


def shown_differences() -> list[str]:
    """Return the differences between models, without their bounds."""
    return ["delta_top1", "gain_over_control", *EVIDENCE_DIFFERENCES]
