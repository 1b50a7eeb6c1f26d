"""The stages of detection and segmentation."""

from __future__ import annotations

from typing import Any

from react_pipeline.project import Project, identity, outside
from react_pipeline.settings import PipelineConfig
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    OwnData,
    Stage,
    model_parents,
)
from react_pipeline.store import Artifact

from .settings import DenseConfig


def _results(project: Project, slug: str, method: str) -> Artifact:
    from .results import publish_dense

    return publish_dense(project, slug, method)


def _comparison(project: Project, slug: str) -> Artifact:
    from .results import compare_dense

    return compare_dense(project, slug)


def _identity_of_results(project: Project, key: str) -> dict[str, Any]:
    """Return all fields but the places of files, which their bytes identify (the content of the
    inputs).
    """
    dense = project.config.section(DenseConfig)
    fields = dense.model_dump(mode="json", exclude={"root", "student_backbone"})
    if not dense.student_images:
        fields = {name: value for name, value in fields.items() if not name.startswith("student_")}
    if dense.own:
        fields["templates"] = identity.classes(project, key.split("/")[0])["templates"]
    return fields


def _has_data(config: PipelineConfig) -> bool:
    root = config.section(DenseConfig).root
    return root is not None and root.is_dir()


DATA = OwnData("dense.root", _has_data)

STAGES = (
    Stage(
        "dense_results",
        "AP on boxes and mIoU on label maps of one checkpoint, by class names alone; nothing is "
        "trained on either",
        "encoder",
        step=_results,
        parents=(BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT),
        parents_of_method=model_parents,
        reads_domain=True,
        identity=_identity_of_results,
        outside=outside.unlisted,
        data=DATA,
        version="4",
        group="dense",
        kinds=("torch", "parquet"),
        pool="gpu",
        priority=10,
    ),
    Stage(
        "dense_comparison",
        "the base and each method in detection and segmentation, set by set, with what could not be "
        "measured and why",
        "domain",
        step=_comparison,
        gathers=("dense_results",),
        data=DATA,
        version="2",
        group="dense",
        kinds=("parquet",),
        priority=20,
    ),
)
