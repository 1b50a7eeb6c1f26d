"""What labels add: the commands `labels export` and `labels import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Labels(Extension):
    """Predictions as folders of classes, and labels that come back."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline labels ...`."""
        from react_pipeline.extensions.labels.commands import labels_app

        app.add_typer(labels_app, name="labels", rich_help_panel="Use a model")
