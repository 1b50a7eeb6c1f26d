"""What the hub adds: the command `export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Hub(Extension):
    """Models for people elsewhere."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline export`."""
        from react_pipeline.extensions.hub.commands import export

        app.command(rich_help_panel="Use a model")(export)
