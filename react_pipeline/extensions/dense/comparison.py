"""Detection and segmentation compared: the base against each method of a domain.

Does not belong here: measuring (`results`), which results may be compared (`comparison`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.extensions.protocols import results_to_compare
from react_pipeline.lineage import resolve
from react_pipeline.pages import escaped, markdown_table
from react_pipeline.project import Project
from react_pipeline.store import Artifact, Scratch

DENSE_COMPARISON = "dense_comparison"
COLUMNS = ["method", "set", "source", "figure", "base", "value", "delta", "n"]
PLACE = ["set", "source", "figure"]


def compare_dense(project: Project, slug: str) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result, on the sets that both
    were measured on.

    Files: `table.parquet`, `table.csv`, `table.md`.

    Raises:
        MissingArtifact: As `results_to_compare`.
    """
    results, skipped = results_to_compare(project, DENSE_COMPARISON, slug)
    inputs = resolve(project, DENSE_COMPARISON, slug, parents=results, content={"skipped": skipped})

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        table, left_out = compare(results)
        table.to_parquet(directory / "table.parquet", index=False)
        table.to_csv(directory / "table.csv", index=False)
        reasons = {**skipped, **left_out}
        (directory / "table.md").write_text(_to_markdown(table, reasons), encoding="utf-8")
        methods = [name for name in results if name != "base"]
        return {"methods": methods, "skipped": reasons, **_counts(table)}

    return project.store.build(inputs, write)


def _to_markdown(table: pd.DataFrame, reasons: Mapping[str, str]) -> str:
    columns = ["method", *PLACE, "base %", "method %", "delta", "images"]
    rows = []
    for row in table.itertuples(index=False):
        percents = [f"{100 * value:.1f}" for value in row[4:6]]
        rows.append([*row[:4], *percents, f"{100 * row.delta:+.1f}", row.n])
    notes = "".join(f"\n- {name}: {escaped(reason)}" for name, reason in reasons.items())
    return markdown_table(columns, rows) + notes + "\n"


def compare(results: Mapping[str, Artifact]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Each method's figures next to the base's (`COLUMNS`), and why figures are left out.

    Args:
        results: By method, the base among them.
    """
    tables = {
        name: pd.read_parquet(result.file("results.parquet")) for name, result in results.items()
    }
    tables = {
        name: table[table["value"].notna() & (table["figure"] != "classes")]
        for name, table in tables.items()
    }
    base = tables.pop("base")[[*PLACE, "value"]].rename(columns={"value": "base"})
    parts = []
    left_out = {
        f"{name}, {place}": str(reason)
        for name, result in results.items()
        for place, reason in result.counts["not_measured"].items()
    }
    for method, table in tables.items():
        mine, theirs = (results[name].counts["digests"] for name in (method, "base"))
        others = [name for name in mine if name in theirs and mine[name] != theirs[name]]
        why = "measured on other images than the base; rematerialize both"
        left_out |= {f"{method}, {name}": why for name in others}
        joined = base.merge(table.loc[~table["set"].isin(others), [*PLACE, "value", "n"]], on=PLACE)
        parts.append(joined.assign(method=method, delta=joined["value"] - joined["base"]))
    return pd.concat(parts)[COLUMNS], left_out


def _counts(table: pd.DataFrame) -> dict[str, Any]:
    deltas: dict[str, Any] = {}
    for row in table.itertuples():
        of_set = deltas.setdefault(row.method, {}).setdefault(row.set, {})
        of_set.setdefault(row.source, {})[row.figure] = float(row.delta)
    return {"delta": deltas}
