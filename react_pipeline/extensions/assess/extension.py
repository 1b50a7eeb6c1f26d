"""What assessing adds: the command `assess`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Assess(Extension):
    """Pictures of no class, several classes a picture, and drift."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline assess`."""
        from react_pipeline.extensions.assess.commands import assess

        app.command(rich_help_panel="Use a model")(assess)
