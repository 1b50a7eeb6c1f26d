"""What pages add: the stage `overview`, and the commands `browse`, `search`, `review`, `takedown`
and `judge`.
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
    from react_pipeline.extensions.pages.overview import overview

    return overview(project)


def _overview_is_current(project: Project) -> Artifact:
    from react_pipeline.extensions.pages.overview import overview_is_current

    return overview_is_current(project)


class Pages(Extension):
    """Pages with pictures, and verdicts without labels."""

    def stages(self) -> Iterable[Stage]:
        """Return `overview`."""
        yield Stage(
            "overview",
            "all domains side by side, with the mean gain of each method over the base; see "
            "dashboard.html",
            "all",
            step=_overview,
            gathers=("comparison",),
            is_current=_overview_is_current,
            version="5",
            group="evaluation",
            kinds=("parquet",),
            priority=65,
        )

    def add_commands(self, app: typer.Typer) -> None:
        """Add the commands."""
        from react_pipeline.extensions.pages import commands

        for command in (commands.browse, commands.search, commands.review, commands.takedown):
            app.command(rich_help_panel="Look at the data")(command)
        app.command(rich_help_panel="Use a model")(commands.judge)
