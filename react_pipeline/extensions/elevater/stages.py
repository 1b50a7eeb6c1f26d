"""The stages of the benchmark."""

from __future__ import annotations

from typing import Any

from react_pipeline.project import Project, outside
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    OwnData,
    Stage,
    model_parents,
)
from react_pipeline.store import Artifact

from .settings import ElevaterConfig


def _features(project: Project, slug: str, method: str) -> Artifact:
    from .features import publish_features

    return publish_features(project, slug, method)


def _results(project: Project, slug: str, method: str) -> Artifact:
    from .results import publish_results

    return publish_results(project, slug, method)


def _comparison(project: Project, slug: str) -> Artifact:
    from .results import compare_benchmarks

    return compare_benchmarks(project, slug)


def _identity_of_features(project: Project, _key: str) -> dict[str, Any]:
    """Return data sets and splits."""
    elevater = project.config.section(ElevaterConfig)
    return {
        "datasets": list(elevater.dataset_names),
        "splits": ["test", "train"] if elevater.shots else ["test"],
    }


def _identity_of_results(project: Project, _key: str) -> dict[str, Any]:
    """Return data sets and protocols."""
    elevater = project.config.section(ElevaterConfig)
    fields: dict[str, Any] = {"datasets": list(elevater.dataset_names)}
    if elevater.shots:
        fields |= elevater.model_dump(mode="json", exclude={"root", "datasets"})
    return fields


DATA = OwnData("elevater.root", lambda config: config.section(ElevaterConfig).root is not None)

STAGES = (
    Stage(
        "benchmark_features",
        "the images of ELEVATER's data sets as one checkpoint encodes them; every protocol reads "
        "these",
        "encoder",
        step=_features,
        parents=(BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT),
        parents_of_method=model_parents,
        identity=_identity_of_features,
        outside=outside.unlisted,
        data=DATA,
        group="benchmark",
        kinds=("torch", "numpy"),
        pool="gpu",
        priority=10,
    ),
    Stage(
        "benchmark_results",
        "one checkpoint on ELEVATER's data sets: zero-shot and, if configured, after training on "
        "shots",
        "encoder",
        step=_results,
        parents=("benchmark_features", BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT),
        parents_of_method=lambda method: ("benchmark_features", *model_parents(method)),
        identity=_identity_of_results,
        data=DATA,
        group="benchmark",
        kinds=("torch", "parquet"),
        pool="gpu",
        priority=15,
    ),
    Stage(
        "benchmark_comparison",
        "the base and each method of the domain on the data sets of ELEVATER that both were "
        "measured on",
        "domain",
        step=_comparison,
        gathers=("benchmark_results",),
        data=DATA,
        version="2",
        group="benchmark",
        kinds=("parquet",),
        priority=20,
    ),
)
