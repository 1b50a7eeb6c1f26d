"""What plans add: the command `plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Plans(Extension):
    """Hours and bytes before anything runs."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline plan`."""
        from react_pipeline.extensions.plan.commands import plan

        app.command(rich_help_panel="Start")(plan)
