"""What ELEVATER adds: stages `benchmark_*`, the section `elevater`, a kind of labelled images,
commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from react_pipeline.extension import Extension
from react_pipeline.extensions import elevater
from react_pipeline.project import Project, outside
from react_pipeline.stage import (
    BASE_CHECKPOINT,
    CUSTOMIZED_CHECKPOINT,
    OwnData,
    Stage,
    model_parents,
)

from .settings import ElevaterConfig, TestImages

if TYPE_CHECKING:
    import typer

    from react_pipeline.settings import EvaluationSetConfig, Section


def _identity_of_features(project: Project, _key: str) -> dict[str, Any]:
    """Return data sets and splits."""
    config = project.config.section(ElevaterConfig)
    return {
        "datasets": list(config.dataset_names),
        "splits": ["test", "train"] if config.shots else ["test"],
    }


def _identity_of_results(project: Project, _key: str) -> dict[str, Any]:
    """Return data sets and protocols."""
    config = project.config.section(ElevaterConfig)
    fields: dict[str, Any] = {"datasets": list(config.dataset_names)}
    if config.shots:
        fields |= config.model_dump(mode="json", exclude={"root", "datasets"})
    return fields


DATA = OwnData("elevater.root", lambda config: config.section(ElevaterConfig).root is not None)

STAGES = (
    Stage(
        "benchmark_features",
        "the images of ELEVATER's data sets as one checkpoint encodes them; every protocol reads "
        "these",
        "encoder",
        step=lambda *place: elevater.publish_features(*place),
        parents=(BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT),
        parents_of_method=model_parents,
        identity=_identity_of_features,
        outside=outside.unlisted,
        data=DATA,
        version="3",
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
        step=lambda *place: elevater.publish_results(*place),
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
        step=lambda *place: elevater.compare_benchmarks(*place),
        gathers=("benchmark_results",),
        data=DATA,
        version="2",
        group="benchmark",
        kinds=("parquet",),
        priority=20,
    ),
)


class Elevater(Extension):
    """The benchmark of 20 data sets."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Return the section `elevater`."""
        return {"elevater": ElevaterConfig}

    def stages(self) -> Iterable[Stage]:
        """Return the stages of the benchmark."""
        return STAGES

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """Return the test images of a data set as a domain's labelled images."""
        return (TestImages,)

    def declare_assets(self) -> None:
        """Declare the checks of the three assets."""
        from . import assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """Add `react-pipeline elevater ...`."""
        from .commands import elevater_app

        app.add_typer(elevater_app, name="elevater", rich_help_panel="Benchmarks")

    def test_digests(
        self, project: Project, slug: str
    ) -> Mapping[str, Callable[[], frozenset[str]]]:
        """Return the test images of its data sets."""
        config = project.config.section(ElevaterConfig)
        if config.root is None:
            return {}
        find = elevater.digests_below
        return {
            f"elevater/{name}": partial(find, elevater.read_dataset, config.root, name, "test")
            for name in config.dataset_names
        }
