"""What dense tasks add: stages `dense_*`, the section `dense`, commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from react_pipeline.extension import Extension
from react_pipeline.extensions import dense, elevater
from react_pipeline.project import Project, identity, outside
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    OwnData,
    Stage,
    model_parents,
)

from .settings import DenseConfig

if TYPE_CHECKING:
    import typer

    from react_pipeline.settings import PipelineConfig, Section


def _identity_of_results(project: Project, key: str) -> dict[str, Any]:
    """Return all fields but the places of files, which their bytes identify (the content of the
    inputs).
    """
    config = project.config.section(DenseConfig)
    fields = config.model_dump(mode="json", exclude={"root", "student_backbone"})
    if not config.student_images:
        fields = {name: value for name, value in fields.items() if not name.startswith("student_")}
    if config.own:
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
        step=lambda *place: dense.publish_dense(*place),
        parents=(BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT),
        parents_of_method=model_parents,
        reads_domain=True,
        identity=_identity_of_results,
        outside=outside.unlisted,
        data=DATA,
        version="6",
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
        step=lambda *place: dense.compare_dense(*place),
        gathers=("dense_results",),
        data=DATA,
        version="2",
        group="dense",
        kinds=("parquet",),
        priority=20,
    ),
)


class Dense(Extension):
    """Detection and segmentation."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Return the section `dense`."""
        return {"dense": DenseConfig}

    def stages(self) -> Iterable[Stage]:
        """Return `dense_results` and `dense_comparison`."""
        return STAGES

    def declare_assets(self) -> None:
        """Declare the checks of the two assets."""
        from . import assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """Add `react-pipeline dense ...`."""
        from .commands import dense_app

        app.add_typer(dense_app, name="dense", rich_help_panel="Benchmarks")

    def test_digests(
        self, project: Project, slug: str
    ) -> Mapping[str, Callable[[], frozenset[str]]]:
        """Return the images of the domain's sets."""
        config = project.config.section(DenseConfig)
        if config.root is None:
            return {}
        find = elevater.digests_below
        return {
            f"dense/{entry.name}": partial(find, dense.read_dense_set, config.root, entry)
            for entry in config.sets(slug)
        }
