"""What dense tasks add: stages `dense_*`, the section `dense`, commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.project import Project
    from react_pipeline.settings import Section
    from react_pipeline.stage import Stage


class Dense(Extension):
    """Detection and segmentation."""

    def sections(self) -> Mapping[str, type[Section]]:
        """`dense`."""
        from .settings import DenseConfig

        return {"dense": DenseConfig}

    def stages(self) -> Iterable[Stage]:
        """`dense_results`, `dense_comparison`."""
        from .stages import STAGES

        return STAGES

    def installs(self) -> Mapping[str, str]:
        """Its extra."""
        from react_pipeline.installation import install_command

        return dict.fromkeys(("pycocotools",), install_command("dense"))

    def declare_assets(self) -> None:
        """Texts and checks of the two assets."""
        from . import assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline dense ...`."""
        from .commands import dense_app

        app.add_typer(dense_app, name="dense", rich_help_panel="Benchmarks")

    def kept_out(self, project: Project, slug: str) -> Mapping[str, Any]:
        """The sets whose images are kept out."""
        from .settings import DenseConfig

        dense = project.config.section(DenseConfig)
        names = [entry.name for entry in dense.sets(slug)] if dense.root else []
        return {"dense": names} if names else {}

    def test_digests(self, project: Project, slug: str) -> Mapping[str, frozenset[str]]:
        """Images of the sets that are there."""
        from .sets import dense_digests

        return {f"dense/{name}": digests for name, digests in dense_digests(project, slug).items()}
