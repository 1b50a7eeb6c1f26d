"""What labels add: the commands `labels export`, `labels import` and `seeds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Labels(Extension):
    """Exchange of labels with other tools, and predictions as seeds of retrieval."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline labels ...` and `react-pipeline seeds`."""
        from react_pipeline.extensions.labels.commands import labels_app, seeds

        app.add_typer(labels_app, name="labels", rich_help_panel="Use a model")
        app.command(rich_help_panel="Use a model")(seeds)
