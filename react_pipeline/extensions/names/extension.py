"""What names in captions add: a check, and `react-pipeline domains names`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Names(Extension):
    """Which captions say the names of classes."""

    def declare_assets(self) -> None:
        """Declare the check that captions name every class."""
        import react_pipeline.extensions.names.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """Add `react-pipeline domains names`."""
        from react_pipeline.commands import domains_app
        from react_pipeline.extensions.names.commands import list_names

        domains_app.command("names")(list_names)
