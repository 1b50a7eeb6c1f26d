"""What automation adds: the section `automation` of `pipeline.yaml`, the sensor `upkeep`, a
schedule, and the command `status`.

No field is part of a fingerprint: they decide when to build, not what. Does not belong here: what
is out of date (`survey`), asking Dagster for runs (`assets`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from react_pipeline.extension import Extension
from react_pipeline.settings import Section, did_you_mean, sections_of_extensions

if TYPE_CHECKING:
    import typer


class AutomationConfig(Section):
    """What is kept up to date automatically."""

    enabled: bool = False
    schedule: str | None = Field(default="0 3 * * *", validate_default=False)
    timezone: ZoneInfo = Field(default_factory=lambda: ZoneInfo("UTC"))
    interval_seconds: int = Field(default=30, ge=1)
    training: Literal["never", "changed", "always"] = "changed"
    changed_fraction: float = Field(default=0.1, ge=0, le=1)
    extensions: tuple[str, ...] = ()

    @field_validator("extensions")
    @classmethod
    def _extensions_exist(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        sections = sections_of_extensions()
        for name in extensions:
            if name not in sections:
                meant = did_you_mean(name, sections, f"choose from {', '.join(sections)}")
                raise ValueError(f"{name!r} is no section of an extension; {meant}")
        return extensions

    @field_validator("schedule")
    @classmethod
    def _schedule_is_a_cron_line(cls, schedule: str | None) -> str | None:
        if schedule is None:
            return None
        # Not in the light installation, in which the default is not checked.
        from croniter import croniter  # type: ignore[import-untyped, unused-ignore]

        try:
            if len(schedule.split()) != 5:
                raise ValueError("it has not five fields")
            croniter(schedule).get_next()  # there is no 30 February
        except ValueError as error:
            raise ValueError(
                f"{schedule!r} is not a cron line ({error}); write five fields, such as '0 3 * * *'"
            ) from error
        return schedule


class Automation(Extension):
    """What runs without a person."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Return `automation`."""
        return {"automation": AutomationConfig}

    def declare_assets(self) -> None:
        """Declare the sensor and the schedule."""
        import react_pipeline.extensions.automation.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline status`."""
        from react_pipeline.extensions.automation.status import status

        app.command(rich_help_panel="Build")(status)
