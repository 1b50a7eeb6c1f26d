"""Detection and segmentation compared: the base against each method of a domain.

Does not belong here: measuring (`results`), which results may be compared (`protocols`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.extensions.protocols import VALUES, compare_figures, publish_comparison
from react_pipeline.project import Project
from react_pipeline.store import Artifact

PLACE = ["set", "source", "figure"]
COLUMNS = ["method", *PLACE, *VALUES, "n", "status"]


def compare_dense(project: Project, slug: str) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result; files and errors as
    of `publish_comparison`.
    """
    return publish_comparison(project, "dense_comparison", slug, _compare)


def _compare(results: Mapping[str, Artifact], _: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    tables = {}
    for name, result in results.items():
        rows = pd.read_parquet(result.file("results.parquet"))
        rows = rows[rows["figure"] != "classes"].fillna({"figure": ""})
        tables[name] = rows.assign(status=rows["unavailable"].fillna("ok"))
    table = compare_figures(tables.pop("base"), tables, PLACE)[COLUMNS]
    deltas: dict[str, Any] = {}
    for row in table[table["status"] == "ok"].itertuples():
        of_set = deltas.setdefault(row.method, {}).setdefault(row.set, {})
        of_set.setdefault(row.source, {})[row.figure] = row.delta
    return table, {"delta": deltas}
