"""What the doctor adds: the command `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Doctor(Extension):
    """Diagnosis."""

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline doctor`."""
        from react_pipeline.extensions.doctor.commands import doctor

        app.command(rich_help_panel="Start")(doctor)
