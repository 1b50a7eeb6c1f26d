"""What ELEVATER adds: stages `benchmark_*`, the section `elevater`, a kind of labelled images,
commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.project import Project
    from react_pipeline.settings import EvaluationSetConfig, Section
    from react_pipeline.stage import Stage


class Elevater(Extension):
    """The benchmark of 20 data sets."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Return the section `elevater`."""
        from .settings import ElevaterConfig

        return {"elevater": ElevaterConfig}

    def stages(self) -> Iterable[Stage]:
        """Return the stages of the benchmark."""
        from .stages import STAGES

        return STAGES

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """Return the test images of a data set as a domain's labelled images."""
        from .labelled_kind import TestImages

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
        from .readers import test_digests
        from .settings import ElevaterConfig

        elevater = project.config.section(ElevaterConfig)
        if elevater.root is None:
            return {}
        return {
            f"elevater/{name}": partial(test_digests, elevater.root, name)
            for name in elevater.dataset_names
        }
