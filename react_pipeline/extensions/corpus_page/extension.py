"""What the page of the corpus adds: the commands `search` and `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class CorpusPage(Extension):
    """Search in the terminal and in a browser."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline search` and `serve`."""
        from react_pipeline.extensions.corpus_page.commands import search, serve

        app.command(rich_help_panel="Look at the data")(search)
        app.command(rich_help_panel="Look at the data")(serve)
