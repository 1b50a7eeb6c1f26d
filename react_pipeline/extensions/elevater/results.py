"""Results of a checkpoint on the benchmark, as an artifact, and the base beside each method: rows
of figures, means over seeds and data sets, tables.

Belongs here: publishing, resuming after a kill. Does not belong here: a single figure
(`measuring`), encoding (`features`).

Files of results: `results.parquet` (`COLUMNS`), `summary.parquet`, `table.md`,
`predictions/<experiment>/*.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.lineage import resolve
from react_pipeline.pages import escaped, markdown_table
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, Scratch

from .datasets import DATASETS, dataset
from .protocols import VALUES, compare_figures, publish_comparison
from .settings import Experiment

COLUMNS = [
    *("dataset", "adaptation", "shots", "seed", "protocol", "metric", "value", "n", "expected"),
    *("layout", "images", "seconds", "learning_rate", "weight_decay", "failed_trials"),
    "unavailable",
]
"""Columns of the results; a row is one figure. A value is a fraction, or has the reason
`unavailable` and no value. `shots` are images a class, 0 zero-shot, -1 all; `expected` is the
official number of test images, of which `n` were there. `images` is the digest of the test images
and their labels, after training also of the training images, from which the shots are drawn;
figures compare only where it is equal. `seconds` are those to search and train, or to classify.
"""
SUMMARY_COLUMNS = [
    *("dataset", "figure", "metric", "value", "spread", "seeds", "n", "expected", "images"),
    "status",
]
COMPARISON_COLUMNS = ["method", "figure", "dataset", "metric", *VALUES, "n", "status"]
MEAN = "mean"
"""The column `dataset` of means in a comparison."""


def publish_results(project: Project, slug: str, method: str) -> Artifact:
    """Publish zero-shot and, if shots are configured, the adaptations of a method on every
    configured data set.

    Missing data, and experiments that cannot be made (a training diverges), are rows with a reason
    and no value. Killed in between, finished data sets are not measured again.

    Raises:
        StaleArtifact: If fine-tuning finds other images than the features were made of.
    """
    inputs = resolve(project, "benchmark_results", method_key(slug, method))

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        from .measuring import Measurer

        measurer = Measurer(project, f"react-{slug}-{method}", inputs.parents)
        rows = []
        for name in measurer.config.dataset_names:
            rows += scratch.build(name, directory, partial(measurer.measure, dataset(name)))
        return _finish(directory, pd.DataFrame(rows, columns=COLUMNS))

    return project.store.build(inputs, write)


def _finish(directory: Path, rows: pd.DataFrame) -> dict[str, Any]:
    rows = rows.astype(dict.fromkeys(("value", "learning_rate", "weight_decay"), "float64"))
    rows.to_parquet(directory / "results.parquet", index=False)
    summary = summarize(rows)
    summary.to_parquet(directory / "summary.parquet", index=False)
    (directory / "table.md").write_text(to_markdown(summary), encoding="utf-8")
    means = mean_over_datasets(summary)
    measured = summary[summary["status"] == "ok"].groupby("figure", sort=False)
    missing = summary[(summary["figure"] == "zero-shot") & (summary["status"] != "ok")]
    trainings = rows.drop_duplicates(["dataset", "adaptation", "shots", "seed"])
    return {
        "datasets_evaluated": means.get("zero-shot", (0.0, 0))[1],
        "of": len(DATASETS),
        "mean": {name: mean for name, (mean, _) in means.items()},
        "datasets_in_mean": {name: count for name, (_, count) in means.items()},
        "value": {name: group.set_index("dataset")["value"].to_dict() for name, group in measured},
        "not_measured": missing.set_index("dataset")["status"].to_dict(),
        "datasets_with_fewer_images": fewer_images(summary),
        "seconds": round(float(trainings["seconds"].sum()), 2),
    }


def compare_benchmarks(project: Project, slug: str) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result; files and errors as
    of `publish_comparison`.
    """

    def count(table: pd.DataFrame) -> dict[str, Any]:
        means = table[table["dataset"] == MEAN]
        means = means.set_index(means["method"] + "." + means["figure"])
        return {
            "of": len(DATASETS),
            "datasets_compared": means["status"].str.split().str[0].astype(int).to_dict(),
            "mean_base": means["base"].dropna().to_dict(),
            "mean": means["value"].dropna().to_dict(),
            "mean_delta": means["delta"].dropna().to_dict(),
        }

    stage, file = "benchmark_comparison", "summary.parquet"
    return publish_comparison(project, stage, slug, file, compare_summaries, count)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each experiment and protocol on each data set; `rows` have `COLUMNS`.

    A mean covers all seeds: where one could not be measured there is no value, and `status` says
    why.

    Returns:
        `SUMMARY_COLUMNS`; `figure` is an experiment with its protocol (`zero-shot`,
        `linear-probe-5.clean`), `spread` the standard deviation over seeds (0 for one), `status`
        `ok` or the reason.
    """
    summary = []
    keys = ["dataset", "adaptation", "shots", "protocol"]
    for (_, adaptation, shots, protocol), group in rows.groupby(keys, sort=False):
        name = Experiment(adaptation, int(shots)).name
        values, status = group["value"], "ok"
        failed = group[values.isna()]
        if len(failed):
            several = f"{len(failed)} of {len(group)} seeds: " if len(group) > 1 else ""
            status = several + str(failed["unavailable"].iloc[0])
        row = group.iloc[0].to_dict()
        row |= {"figure": f"{name}.{protocol}" if shots else name, "seeds": len(group)}
        row |= {"value": values.mean(skipna=False), "spread": values.std(ddof=0, skipna=False)}
        summary.append({**row, "status": status})
    return pd.DataFrame(summary, columns=SUMMARY_COLUMNS)


def mean_over_datasets(summary: pd.DataFrame) -> dict[str, tuple[float, int]]:
    """Return for each figure the mean over the data sets of the 20 that were measured, and their
    number. ImageNet is never averaged with them.
    """
    measured = summary[(summary["status"] == "ok") & summary["dataset"].isin(list(DATASETS))]
    groups = measured.groupby("figure", sort=False)["value"]
    return {figure: (float(group.mean()), len(group)) for figure, group in groups}


def fewer_images(summary: pd.DataFrame) -> int:
    """Count the data sets with fewer test images than officially: their figures are not the
    benchmark's.
    """
    return int(summary[summary["n"].between(1, summary["expected"] - 1)]["dataset"].nunique())


def to_markdown(summary: pd.DataFrame) -> str:
    """Return the table for people: percent with one decimal, means with their number of data sets;
    problems below.
    """
    values = summary["value"].map("{:.1%}".format, na_action="ignore")
    spreads = summary["spread"].where(summary["seeds"] > 1)
    spreads = spreads.map(" ± {:.1%}".format, na_action="ignore").fillna("")
    shown = summary.assign(cell=(values + spreads).fillna("–"))
    figures = summary["figure"].unique()
    rows = []
    for name, group in shown.groupby("dataset", sort=False):
        n, expected = int(group["n"].max()), int(group["expected"].iloc[0])
        images = f"{n:,}" if n in (0, expected) else f"{n:,} of {expected:,}"
        cells = group.set_index("figure")["cell"].reindex(figures)
        rows.append([name, group["metric"].iloc[0], images, *cells])
    means = mean_over_datasets(summary)
    cells = [f"{mean:.1%} ({count} of {len(DATASETS)})" for mean, count in means.values()]
    last = dict(zip(means, cells, strict=True))
    rows.append(["mean", "", "", *(last.get(name, "–") for name in figures)])
    text = markdown_table(["data set", "metric", "images", *figures], rows)
    if few := fewer_images(summary):
        text += (
            f"\nFewer test images than officially: {few} of {len(rows) - 1} data sets. Such a figure is "
            "not the benchmark's, nor is a mean over it.\n"
        )
    missing = summary[summary["status"] != "ok"].drop_duplicates(["dataset", "status"])
    reasons = "".join(
        f"- {row.dataset}, {row.figure}: {escaped(row.status)}\n" for row in missing.itertuples()
    )
    return text + (f"\nNot measured:\n\n{reasons}" if reasons else "")


def compare_summaries(base: pd.DataFrame, methods: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Set each method's figures next to the base's, all of `summarize`.

    Returns:
        `COMPARISON_COLUMNS`: the rows of `compare_figures`, then for each method and figure a row
        `mean`, for the base too over the data sets that are `ok`, whose status says how many of the
        20 they are.
    """
    table = compare_figures(base, methods, ["figure", "dataset"])
    table["metric"] = table["metric"].fillna(table["metric_base"])
    averaged = table.loc[table["dataset"].isin(list(DATASETS)), VALUES].reindex(table.index)
    groups = averaged.groupby([table["method"], table["figure"]], sort=False)
    covered = groups["delta"].count().map(f"{{}} of {len(DATASETS)} data sets".format)
    means = groups.mean().assign(dataset=MEAN, metric="", status=covered).reset_index()
    return pd.concat([table, means], ignore_index=True)[COMPARISON_COLUMNS]
