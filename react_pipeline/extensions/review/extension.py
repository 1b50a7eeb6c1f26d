"""What reviewing adds: the commands `review` and `takedown`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Review(Extension):
    """Looking through retrieved pairs, and taking images down."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline review` and `takedown`."""
        from react_pipeline.extensions.review.commands import review, takedown

        app.command(rich_help_panel="Look at the data")(review)
        app.command(rich_help_panel="Look at the data")(takedown)
