"""Results of a checkpoint on the benchmark, as an artifact, and the base beside each method.

Belongs here: publishing, resuming after a kill. Does not belong here: a single figure
(`measuring`), means and tables (`figures`), encoding (`features`).

Files of results: `results.parquet` (`figures.COLUMNS`), `summary.parquet`, `table.md`,
`predictions/<experiment>/*.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.extensions.protocols import pick_checkpoint, publish_comparison
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, Scratch

from .datasets import DATASETS, dataset
from .figures import (
    COLUMNS,
    MEAN,
    compare_summaries,
    fewer_images,
    mean_over_datasets,
    summarize,
    to_markdown,
)

BENCHMARK_RESULTS = "benchmark_results"


def publish_results(project: Project, slug: str, method: str) -> Artifact:
    """Publish zero-shot and, if shots are configured, the adaptations of a method on every
    configured data set.

    Missing data, and experiments that cannot be made (a training diverges), are rows with a reason
    and no value. Killed in between, finished data sets are not measured again.

    Raises:
        StaleArtifact: If fine-tuning finds other images than the features were made of.
    """
    inputs = resolve(project, BENCHMARK_RESULTS, method_key(slug, method))

    def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
        from .measuring import Measurer

        features = inputs.parents["benchmark_features"]
        checkpoint = pick_checkpoint(inputs.parents)
        measurer = Measurer(project, f"react-{slug}-{method}", features, checkpoint)
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

    def compare(results: Mapping[str, Artifact]) -> tuple[pd.DataFrame, dict[str, Any]]:
        summaries = {
            name: pd.read_parquet(result.file("summary.parquet"))
            for name, result in results.items()
        }
        table = compare_summaries(summaries.pop("base"), summaries)
        means = table[table["dataset"] == MEAN]
        means = means.set_index(means["method"] + "." + means["figure"])
        return table, {
            "of": len(DATASETS),
            "datasets_compared": means["status"].str.split().str[0].astype(int).to_dict(),
            "mean_base": means["base"].dropna().to_dict(),
            "mean": means["value"].dropna().to_dict(),
            "mean_delta": means["delta"].dropna().to_dict(),
        }

    return publish_comparison(project, "benchmark_comparison", slug, compare)
