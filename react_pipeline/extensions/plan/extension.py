"""What is asked before anything runs: the commands `doctor`, `plan` and `advise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Plans(Extension):
    """Answers before anything runs."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline doctor`, `plan` and `advise`."""
        from react_pipeline.extensions.plan.commands import advise, doctor, plan

        app.command(rich_help_panel="Start")(doctor)
        app.command(rich_help_panel="Start")(plan)
        app.command(rich_help_panel="Build")(advise)
