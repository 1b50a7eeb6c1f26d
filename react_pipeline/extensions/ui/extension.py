"""What the user interfaces add: the command `ui`, and views of MLflow's experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class UserInterfaces(Extension):
    """Dagster and MLflow, started together."""

    def prepare_experiment(self, client: Any, experiment: Any, files: Path | None) -> None:
        """Save views of results and of trainings."""
        from react_pipeline.extensions.ui.views import save_views

        save_views(client, experiment)

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline ui`."""
        from react_pipeline.extensions.ui.commands import ui

        app.command(rich_help_panel="Build")(ui)
