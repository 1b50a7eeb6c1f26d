"""Configuration of what happens by itself: `automation:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: what is out of date (`upkeep`), asking
Dagster for runs (`assets.upkeep_sensor`). No field is part of a fingerprint: they decide when to build, not what.
"""

import zoneinfo
from typing import Literal

from pydantic import Field, field_validator

from react_pipeline.settings.training import Fraction, Section

_CRON_FIELDS = {
    **{"minute": "0 to 59", "hour": "0 to 23", "day of the month": "1 to 31"},
    **{"month": "1 to 12", "day of the week": "0 to 7"},
}


class AutomationConfig(Section):
    """What is kept up to date automatically."""

    enabled: bool = False
    schedule: str | None = "0 3 * * *"
    timezone: str = "UTC"
    interval_seconds: int = Field(default=30, ge=1)
    training: Literal["never", "changed", "always"] = "changed"
    changed_fraction: Fraction = 0.1
    benchmark: bool = False

    @field_validator("schedule")
    @classmethod
    def _schedule_is_a_cron_line(cls, schedule: str | None) -> str | None:
        if schedule is not None:
            require_cron_line(schedule)
        return schedule

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, timezone: str) -> str:
        try:
            zoneinfo.ZoneInfo(timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{timezone!r} is no time zone; write one such as UTC or Europe/Berlin") from error
        return timezone


def require_cron_line(line: str) -> None:
    """Check the five fields of a cron line: numbers, names, `*`, ranges, lists and steps.

    Raises:
        ValueError: Naming the first field that is wrong.
    """
    from croniter import croniter  # type: ignore[import-untyped, unused-ignore]  # not in the light installation

    fields = line.split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError(
            f"{line!r} has {len(fields)} fields; a cron line has five, such as '0 3 * * *': minute, hour, day of the "
            "month, month, weekday"
        )
    for place, (name, values) in enumerate(_CRON_FIELDS.items()):
        if not croniter.is_valid(" ".join([*["*"] * place, fields[place], *["*"] * (4 - place)])):
            raise ValueError(f"{line!r}: {fields[place]!r} is no {name}: write {values}, *, a-b, a,b or */n")
