"""What ELEVATER adds: stages `benchmark_*`, the section `elevater`, a kind of labelled images,
commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.project import Project
    from react_pipeline.settings import EvaluationSetConfig, Section
    from react_pipeline.stage import Stage


class Elevater(Extension):
    """The benchmark of 20 data sets."""

    def sections(self) -> Mapping[str, type[Section]]:
        """`elevater`."""
        from .settings import ElevaterConfig

        return {"elevater": ElevaterConfig}

    def stages(self) -> Iterable[Stage]:
        """`benchmark_features`, `benchmark_results`, `benchmark_comparison`."""
        from .stages import STAGES

        return STAGES

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """The test images of a data set as a domain's labelled images."""
        from .labelled_kind import TestImages

        return (TestImages,)

    def installs(self) -> Mapping[str, str]:
        """Its extra."""
        from react_pipeline.installation import install_command

        return dict.fromkeys(("clip_benchmark", "h5py"), install_command("elevater"))

    def declare_assets(self) -> None:
        """Texts and checks of the three assets."""
        from . import assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline elevater ...`."""
        from .commands import elevater_app

        app.add_typer(elevater_app, name="elevater", rich_help_panel="Benchmarks")

    def kept_out(self, project: Project, slug: str) -> Mapping[str, Any]:
        """The data sets whose test images are kept out."""
        from .settings import ElevaterConfig

        elevater = project.config.section(ElevaterConfig)
        return {"elevater": list(elevater.dataset_names) if elevater.root else []}

    def test_digests(self, project: Project, slug: str) -> Mapping[str, frozenset[str]]:
        """Test images of the data sets that are there."""
        from .readers import test_digests

        return {f"elevater/{name}": digests for name, digests in test_digests(project).items()}
