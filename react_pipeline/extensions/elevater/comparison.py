"""Comparison on the benchmark: the base against each method of a domain, data set by data set.

A data set counts only if both sides measured it, on the same images. Means are over these data
sets, for the base too. Does not belong here: measuring (`results`), a domain's own labelled images
(`react_pipeline.evaluation`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.extensions.protocols import VALUES, compare_figures, publish_comparison
from react_pipeline.project import Project
from react_pipeline.store import Artifact

from .datasets import DATASETS
from .summary import with_figures

MEAN = "mean"
COLUMNS = ["method", "figure", "dataset", "metric", *VALUES, "n", "status"]
"""`figure` is an experiment with its protocol (`zero-shot`, `linear-probe-5.clean`)."""


def compare_benchmarks(project: Project, slug: str) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result.

    Files and errors as of `publish_comparison`, and `comparison.json` and `comparison.png`, the
    differences of the data sets.
    """

    def compare(
        results: Mapping[str, Artifact], directory: Path
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        summaries = {
            name: pd.read_parquet(result.file("summary.parquet"))
            for name, result in results.items()
        }
        table = compare_summaries(summaries.pop("base"), summaries)
        table.to_json(directory / "comparison.json", orient="records", indent=1)
        _draw(table, directory / "comparison.png", slug)
        means = table[table["dataset"] == MEAN]
        means = means.set_index(means["method"] + "." + means["figure"])
        counts = {
            "of": len(DATASETS),
            "datasets_compared": means["status"].str.split().str[0].astype(int).to_dict(),
            "mean_base": means["base"].dropna().to_dict(),
            "mean": means["value"].dropna().to_dict(),
            "mean_delta": means["delta"].dropna().to_dict(),
        }
        return table, counts

    return publish_comparison(project, "benchmark_comparison", slug, compare)


def compare_summaries(base: pd.DataFrame, methods: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Set each method's figures next to the base's, all of `summary.summarize`.

    Returns:
        `COLUMNS`: the rows of `compare_figures`, then for each method and figure a row `mean` over
        the data sets that are `ok`, whose status says how many of the 20 they are.
    """
    summaries = {name: with_figures(summary) for name, summary in methods.items()}
    table = compare_figures(with_figures(base), summaries, ["figure", "dataset"])
    table["metric"] = table["metric"].fillna(table["metric_base"])
    averaged = table.loc[table["dataset"].isin(list(DATASETS)), VALUES].reindex(table.index)
    groups = averaged.groupby([table["method"], table["figure"]], sort=False)
    covered = groups["delta"].count().map(f"{{}} of {len(DATASETS)} data sets".format)
    means = groups.mean().assign(dataset=MEAN, metric="", status=covered).reset_index()
    return pd.concat([table, means], ignore_index=True)[COLUMNS]


def _draw(table: pd.DataFrame, path: Path, title: str) -> None:
    """Write a PNG: for each data set bars, the differences of methods and figures to the base."""
    from matplotlib.figure import Figure

    measured = table[(table["status"] == "ok") & ~table["figure"].str.endswith(".elevater")]
    points = 100 * measured.pivot(index="dataset", columns=["method", "figure"], values="delta")
    figure = Figure(figsize=(7, 2 + 0.2 * points.size), layout="constrained")
    axes = figure.subplots()
    if points.size:
        order = points.mean(axis=1).sort_values().index
        points.loc[order].plot.barh(ax=axes, xlabel="points above the base")
    figure.suptitle(title if points.size else f"{title}: nothing to compare")
    figure.savefig(path, dpi=100)
