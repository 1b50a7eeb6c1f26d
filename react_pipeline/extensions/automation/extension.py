"""What automation adds: the sensor `upkeep`, a schedule, and the command `status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension
from react_pipeline.settings import Section

if TYPE_CHECKING:
    import typer


class Automation(Extension):
    """What runs without a person."""

    def sections(self) -> Mapping[str, type[Section]]:
        """The section `automation`."""
        from react_pipeline.extensions.automation.settings import AutomationConfig

        return {"automation": AutomationConfig}

    def declare_assets(self) -> None:
        """The sensor and the schedule."""
        import react_pipeline.extensions.automation.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline status`."""
        from react_pipeline.extensions.automation.status import status

        app.command(rich_help_panel="Build")(status)
