"""Comparison on the benchmark: the base against each method of a domain, data set by data set.

A data set counts only if both sides measured it, on the same images. Means are over these data
sets, for the base too. Does not belong here: measuring (`results`), a domain's own labelled images
(`react_pipeline.evaluation`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from react_pipeline.extensions.protocols import results_to_compare
from react_pipeline.lineage import resolve
from react_pipeline.pages import escaped, markdown_table
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.store import Artifact, Scratch

from .datasets import DATASETS
from .summary import with_figures

BENCHMARK_COMPARISON = "benchmark_comparison"
MEAN = "mean"
VALUES = ["base", "value", "delta"]
COLUMNS = ["method", "figure", "dataset", "metric", *VALUES, "n", "status"]
"""`figure` is an experiment with its protocol (`zero-shot`, `linear-probe-5.clean`); values are
fractions.
"""


def compare_benchmarks(project: Project, slug: str) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result.

    Files: `table.parquet`, `table.csv`, `table.md`, `comparison.json`, `comparison.png` (for each
    method the differences of its data sets, sorted).

    Raises:
        MissingArtifact: As `results_to_compare`.
    """
    results, skipped = results_to_compare(project, BENCHMARK_COMPARISON, slug)
    inputs = resolve(
        project, BENCHMARK_COMPARISON, slug, parents=results, content={"skipped": skipped}
    )

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        summaries = {
            name: pd.read_parquet(result.file("summary.parquet"))
            for name, result in results.items()
        }
        table = compare_summaries(summaries.pop("base"), summaries)
        table.to_parquet(directory / "table.parquet", index=False)
        table.to_csv(directory / "table.csv", index=False)
        (directory / "table.md").write_text(to_markdown(table, skipped), encoding="utf-8")
        table.to_json(directory / "comparison.json", orient="records", indent=1)
        draw(table, directory / "comparison.png", slug)
        return {
            "methods": list(summaries),
            "skipped": skipped,
            "of": len(DATASETS),
            **_counts(table),
        }

    return project.store.build(inputs, write)


def compare_summaries(base: pd.DataFrame, methods: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Each method's figures next to the base's, all of `summary.summarize`.

    Returns:
        `COLUMNS`: for each method and figure a row for every data set that either side has, with
        `status` `ok` or why it is left out, then a row `mean` over those that are `ok`, whose
        status says how many of the 20 they are.
    """
    rows: list[dict[str, Any]] = []
    for method, summary in methods.items():
        joined = _joined(base, summary).assign(method=method)
        for figure, group in joined.groupby("figure", sort=False):
            counted = group[(group["status"] == "ok") & group["dataset"].isin(list(DATASETS))]
            means = {name: np.mean(counted[name].tolist()) for name in VALUES if len(counted)}
            status = f"{len(counted)} of {len(DATASETS)} data sets"
            mean = {"method": method, "figure": figure, "dataset": MEAN, "metric": ""}
            rows += [*group.to_dict("records"), {**mean, **means, "status": status}]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(VALUES, "float64"))


def _joined(base: pd.DataFrame, mine: pd.DataFrame) -> pd.DataFrame:
    """Both sides of each figure and data set; values only where the `status` is `ok`."""
    place = ["figure", "dataset"]
    mine = with_figures(mine)
    theirs = with_figures(base)
    places = pd.concat([mine[place], theirs[place]]).drop_duplicates()
    joined = places.merge(theirs, "left", place).merge(mine, "left", place, suffixes=("_base", ""))
    statuses = {"the base": joined["status_base"], "the method": joined["status"]}
    reasons = pd.Series("ok", joined.index)
    reasons[joined["images_base"] != joined["images"]] = (
        "measured on other images than the base; rematerialize both"
    )
    for side, status in reversed(statuses.items()):
        reasons[status != "ok"] = f"not measured of {side}: " + status
        reasons[status.isna()] = f"{side} was not asked for it"
    values = {
        "base": joined["value_base"],
        "value": joined["value"],
        "delta": joined["value"] - joined["value_base"],
        "n": joined["n"],
    }
    measured = {name: column.where(reasons == "ok") for name, column in values.items()}
    metric = joined["metric"].fillna(joined["metric_base"])
    return joined[place].assign(metric=metric, status=reasons, **measured)


def to_markdown(table: pd.DataFrame, skipped: Mapping[str, str]) -> str:
    """The table for people: percent with one decimal, differences with their sign, what was left
    out below.
    """
    parts = []
    for (method, figure), group in table.groupby(["method", "figure"], sort=False):
        rows = []
        for row in group[(group["status"] == "ok") | (group["dataset"] == MEAN)].itertuples():
            name = f"mean ({row.status})" if row.dataset == MEAN else row.dataset
            figures = (f"{100 * row.base:.1f}", f"{100 * row.value:.1f}", f"{100 * row.delta:+.1f}")
            rows.append([name, row.metric, *(("–", "–", "–") if np.isnan(row.delta) else figures)])
        left_out = group[(group["status"] != "ok") & (group["dataset"] != MEAN)]
        reasons = [f"- {row.dataset}: {escaped(row.status)}" for row in left_out.itertuples()]
        parts += [
            f"{method}, {figure}",
            markdown_table(["data set", "metric", "base %", "method %", "delta"], rows),
        ]
        parts += ["Left out:\n\n" + "\n".join(reasons)] if reasons else []
    parts += [f"- {method}: {escaped(reason)}" for method, reason in skipped.items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def draw(table: pd.DataFrame, path: Path, title: str) -> None:
    """Write a PNG: for each method and figure a panel of bars, the differences to the base sorted
    by size.
    """
    from matplotlib.figure import Figure

    measured = table[(table["status"] == "ok") & ~table["figure"].str.endswith(".elevater")]
    panels = list(measured.groupby(["method", "figure"], sort=False))
    figure = Figure(figsize=(6, max(4.5 * len(panels), 1)), layout="constrained")
    for number, ((method, name), group) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        group = group.sort_values("delta")
        points = 100 * group["delta"]
        shade = "#9ecae1" if method.endswith(CONTROL_SUFFIX) else "#08519c"
        colours = [shade if delta >= 0 else "#cb6d51" for delta in points]
        bars = axes.barh(group["dataset"], points, color=colours)
        axes.bar_label(bars, fmt="%+.1f", padding=3, fontsize=7)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.tick_params(axis="y", labelsize=7)
        axes.margins(x=0.2)
        counted = int(group["dataset"].isin(list(DATASETS)).sum())
        axes.set_title(f"{method}, {name}: {counted} of {len(DATASETS)} data sets", fontsize=9)
        axes.set_xlabel("points above the base")
    figure.suptitle(title if panels else f"{title}: nothing to compare")
    figure.savefig(path, dpi=100)


def _counts(table: pd.DataFrame) -> dict[str, Any]:
    means = table[table["dataset"] == MEAN]
    means = means.set_index(means["method"] + "." + means["figure"])
    return {
        "datasets_compared": means["status"].str.split().str[0].astype(int).to_dict(),
        "mean_base": means["base"].dropna().to_dict(),
        "mean": means["value"].dropna().to_dict(),
        "mean_delta": means["delta"].dropna().to_dict(),
    }
