"""What reviewing adds: the commands `review`, `improve` and `takedown`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Review(Extension):
    """Looking through retrieved pairs, and trying what would improve them."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline review`, `improve` and `takedown`."""
        from react_pipeline.extensions.review.commands import improve, review, takedown

        app.command(rich_help_panel="Look at the data")(review)
        app.command(rich_help_panel="Look at the data")(improve)
        app.command(rich_help_panel="Look at the data")(takedown)
