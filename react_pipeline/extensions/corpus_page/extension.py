"""What the page of the corpus adds: the command `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class CorpusPage(Extension):
    """Search in a browser."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline serve`."""
        from react_pipeline.extensions.corpus_page.commands import serve

        app.command()(serve)
