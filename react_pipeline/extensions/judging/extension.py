"""What judging adds: the command `judge`, and judgements as evidence on models without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Judging(Extension):
    """Verdicts without labels."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline judge`."""
        from react_pipeline.extensions.judging.commands import judge

        app.command(rich_help_panel="Use a model")(judge)
