"""The stage of guard sets."""

from __future__ import annotations

from typing import Any

from react_pipeline.extensions.guards.settings import GuardsConfig
from react_pipeline.project import Files, Project
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    OwnData,
    Stage,
    model_parents,
)
from react_pipeline.store import Artifact

GUARD_RESULTS = "guard_results"


def _results(project: Project, slug: str, method: str) -> Artifact:
    from react_pipeline.extensions.guards.results import publish_guard_results

    return publish_guard_results(project, slug, method)


def _identity(project: Project, _key: str) -> dict[str, Any]:
    """The sets; their images are identified by their bytes (the content of the inputs)."""
    sets = project.config.section(GuardsConfig).sets
    asked = {"classes", "templates"}
    return {
        "sets": [
            {**guard.evaluation.identity(), **guard.model_dump(mode="json", include=asked)}
            for guard in sets
        ]
    }


def _outside(project: Project, _key: str) -> Files:
    from react_pipeline.extensions.guards.results import evaluation_of

    sets = [evaluation_of(project, one) for one in project.config.section(GuardsConfig).sets]
    names = tuple(name for one in sets for name in one.files())
    return Files(names, complete=all(one.is_watched for one in sets))


STAGES = (
    Stage(
        GUARD_RESULTS,
        "zero-shot accuracy of one checkpoint on labelled sets outside the domain: what it forgot",
        "encoder",
        step=_results,
        parents=(BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT),
        parents_of_method=model_parents,
        identity=_identity,
        outside=_outside,
        data=OwnData(
            "guards.sets",
            lambda config: bool(config.section(GuardsConfig).sets),
            is_benchmark=False,
        ),
        group="guards",
        kinds=("torch", "parquet"),
        pool="gpu",
        priority=60,
    ),
)
