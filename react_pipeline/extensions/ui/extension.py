"""What the user interfaces add: the command `ui`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class UserInterfaces(Extension):
    """Dagster and MLflow, started together."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline ui`."""
        from react_pipeline.extensions.ui.commands import ui

        app.command(rich_help_panel="Build")(ui)
