"""What dashboards add: `dashboard.html` of a comparison, the stage `overview` of all domains, and
the command `report`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension
from react_pipeline.stage import Stage

if TYPE_CHECKING:
    import typer

    from react_pipeline.project import Project
    from react_pipeline.store import Artifact


def _overview(project: Project) -> Artifact:
    from react_pipeline.extensions.dashboard.overview import overview

    return overview(project)


def _overview_is_current(project: Project) -> Artifact:
    from react_pipeline.extensions.dashboard.overview import overview_is_current

    return overview_is_current(project)


class Dashboards(Extension):
    """Pages with figures."""

    def stages(self) -> Iterable[Stage]:
        """`overview`."""
        yield Stage(
            "overview",
            "all domains side by side, with the mean of each method; see dashboard.html",
            "all",
            step=_overview,
            gathers=("comparison",),
            is_current=_overview_is_current,
            version="2",
            group="evaluation",
            kinds=("plotly", "parquet"),
            priority=65,
        )

    def declare_assets(self) -> None:
        """The text of `overview`."""
        import react_pipeline.extensions.dashboard.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline report`."""
        from react_pipeline.extensions.dashboard.commands import report

        app.command(rich_help_panel="Build")(report)
