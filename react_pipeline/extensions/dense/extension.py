"""What dense tasks add: stages `dense_*`, the section `dense`, commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.project import Project
    from react_pipeline.settings import Section
    from react_pipeline.stage import Stage


class Dense(Extension):
    """Detection and segmentation."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Return the section `dense`."""
        from .settings import DenseConfig

        return {"dense": DenseConfig}

    def stages(self) -> Iterable[Stage]:
        """Return `dense_results` and `dense_comparison`."""
        from .stages import STAGES

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
        from .sets import dense_digests
        from .settings import DenseConfig

        dense = project.config.section(DenseConfig)
        if dense.root is None:
            return {}
        return {
            f"dense/{entry.name}": partial(dense_digests, dense.root, entry)
            for entry in dense.sets(slug)
        }
