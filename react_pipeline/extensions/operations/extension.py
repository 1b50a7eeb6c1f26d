"""What operations add: the commands `prune` and `verify`, on the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Operations(Extension):
    """What keeps a store small and whole."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline prune` and `verify`."""
        from react_pipeline.extensions.operations.commands import prune, verify

        for command in (prune, verify):
            app.command(rich_help_panel="Operate")(command)
