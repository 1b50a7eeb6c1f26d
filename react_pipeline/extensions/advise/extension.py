"""What advice adds: the command `advise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Advise(Extension):
    """Classes that the corpus lacks, and what to run next."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline advise`."""
        from react_pipeline.extensions.advise.commands import advise

        app.command(rich_help_panel="Build")(advise)
