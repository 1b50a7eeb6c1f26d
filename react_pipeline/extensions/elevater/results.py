"""Results of a checkpoint on the benchmark, as an artifact: one row a figure, means, prediction
files.

Belongs here: publishing, resuming after a kill. Does not belong here: a single figure
(`measuring`), means (`summary`), encoding (`features`), the difference to the base (`comparison`).

Files: `results.parquet`, `results.json` (`experiments.COLUMNS`), `summary.parquet`, `table.md`,
`predictions/<experiment>/*.json`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.extensions.protocols import checkpoint_of
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, InputError, Scratch

from .datasets import DATASETS, dataset
from .experiments import COLUMNS
from .submission import write_submission
from .summary import fewer_images, mean_over_datasets, summarize, to_markdown, with_figures

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
        checkpoint = checkpoint_of(inputs.parents)
        measurer = Measurer(project, f"react-{slug}-{method}", features, checkpoint)
        rows = []
        for name in measurer.config.dataset_names:
            rows += scratch.build(name, directory, partial(measurer.measure, dataset(name)))
        return _finish(directory, pd.DataFrame(rows, columns=COLUMNS))

    return project.store.build(inputs, write)


def collect_submission(artifact: Artifact, experiment: str, path: Path) -> list[str]:
    """Write the leaderboard's zip of one experiment, and report what the leaderboard would miss.

    Args:
        experiment: Its folder: `zero_shot`, `linear_probe_5`, `finetuning_full`.

    Raises:
        InputError: If the results have no predictions of it.
    """
    folder = artifact.path / "predictions" / experiment
    if not folder.is_dir():
        names = sorted(path.name for path in (artifact.path / "predictions").glob("*"))
        raise InputError(
            f"{artifact.path}: no predictions of {experiment!r}; there are "
            f"{', '.join(names) or 'none'}"
        )
    return write_submission(folder, path)


def _finish(directory: Path, rows: pd.DataFrame) -> dict[str, Any]:
    rows = rows.astype(dict.fromkeys(("value", "learning_rate", "weight_decay"), "float64"))
    rows.to_parquet(directory / "results.parquet", index=False)
    rows.to_json(directory / "results.json", orient="records", indent=1)
    summary = summarize(rows)
    summary.to_parquet(directory / "summary.parquet", index=False)
    (directory / "table.md").write_text(to_markdown(summary), encoding="utf-8")
    means = mean_over_datasets(summary)
    measured = with_figures(summary[summary["status"] == "ok"]).groupby("figure", sort=False)
    missing = summary[(summary["experiment"] == "zero-shot") & (summary["status"] != "ok")]
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
