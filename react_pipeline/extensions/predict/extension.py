"""What predictions add: the commands `predict` and `embed`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Predict(Extension):
    """Many pictures by a customized model, as files."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline predict` and `embed`."""
        from react_pipeline.extensions.predict.commands import embed, predict

        app.command(rich_help_panel="Use a model")(predict)
        app.command(rich_help_panel="Use a model")(embed)
