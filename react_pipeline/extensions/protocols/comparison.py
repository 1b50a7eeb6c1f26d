"""The base compared with every method of a domain, figure by figure.

A figure counts only if both sides have it, of the same images. Does not belong here: measuring,
which figures there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.lineage import gather, resolve
from react_pipeline.pages import escaped, markdown_table
from react_pipeline.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store import Artifact, MissingArtifact, Scratch

VALUES = ["base", "value", "delta"]
"""The base's figure, the method's, and the difference, as fractions."""

Compare = Callable[[Mapping[str, Artifact], Path], tuple[pd.DataFrame, dict[str, Any]]]
"""Maps results by method, and a folder for further files, to a table with `VALUES`, and counts."""


def publish_comparison(project: Project, stage: str, slug: str, compare: Compare) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result.

    Files: `table.parquet`, `table.csv`, `table.md`, and what `compare` writes.

    Raises:
        MissingArtifact: If the base has no fresh result, or no method has.
    """
    results, skipped = gather(project, stage, slug)
    if "base" not in results or len(results) == 1:
        without = "no method" if "base" in results else "the base"
        reasons = "".join(f"; {method}: {reason}" for method, reason in skipped.items())
        (gathered,) = STAGES[stage].gathers
        raise MissingArtifact(
            f"{slug}: {without} has a result to compare{reasons}; materialize `{gathered}`",
            (stage, slug),
        )
    inputs = resolve(project, stage, slug, parents=results, content={"skipped": skipped})

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        table, counts = compare(results, directory)
        table.to_parquet(directory / "table.parquet", index=False)
        table.to_csv(directory / "table.csv", index=False)
        notes = "".join(f"\n- {name}: {escaped(reason)}" for name, reason in skipped.items())
        text = f"{_to_markdown(table)}{notes}\n"
        (directory / "table.md").write_text(text, encoding="utf-8")
        methods = [name for name in results if name != "base"]
        return {"methods": methods, "skipped": skipped, **counts}

    return project.store.build(inputs, write)


def contradictions(rows: pd.DataFrame) -> int:
    """Count rows of results with both a value and a reason or neither, with a value of no image or
    one that is not a fraction.
    """
    has_value = rows["value"].notna()
    has_reason = rows["unavailable"].notna()
    no_figure = has_value & ((rows["n"] == 0) | ~rows["value"].between(0, 1))
    return int(((has_value == has_reason) | no_figure).sum())


def _to_markdown(table: pd.DataFrame) -> str:
    forms = zip(VALUES, ("{:.1%}", "{:.1%}", "{:+.1%}"), strict=True)
    points = {name: table[name].map(form.format, na_action="ignore") for name, form in forms}
    rows = table.assign(**points).astype({"n": "Int64"}).astype(object)
    return markdown_table(list(table), rows.where(rows.notna(), None).to_numpy().tolist())


def compare_figures(
    base: pd.DataFrame, methods: Mapping[str, pd.DataFrame], place: Sequence[str]
) -> pd.DataFrame:
    """Set each method's figures next to the base's.

    Args:
        base: Columns `place`, `value`, `n`, `images` (digest of what was measured) and `status`
            (`ok`, or why there is no value); the methods' tables have the same.
        place: What names a figure.

    Returns:
        For each method a row for every figure that either side has: the columns of `base`, with
        `VALUES`, which are there only where `status` is `ok`.
    """
    parts = [
        _joined(base, table, list(place)).assign(method=method) for method, table in methods.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _joined(base: pd.DataFrame, mine: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    places = pd.concat([mine[place], base[place]]).drop_duplicates()
    joined = places.merge(base, "left", place).merge(mine, "left", place, suffixes=("_base", ""))
    status = pd.Series("ok", joined.index)
    status[joined["images_base"] != joined["images"]] = (
        "measured on other images than the base; rematerialize both"
    )
    for side, column in (("the method", "status"), ("the base", "status_base")):
        reasons = joined[column]
        status[reasons != "ok"] = f"not measured of {side}: " + reasons
        status[reasons.isna()] = f"{side} was not asked for it"
    values = {"base": joined["value_base"], "value": joined["value"], "n": joined["n"]}
    values["delta"] = values["value"] - values["base"]
    measured = {name: column.where(status == "ok") for name, column in values.items()}
    return joined.assign(**measured, status=status)
