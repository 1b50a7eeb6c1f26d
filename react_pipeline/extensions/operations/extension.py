"""Adds the section `retention` with its job, and commands on the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from react_pipeline.extension import Extension
from react_pipeline.settings import Section

if TYPE_CHECKING:
    import typer


class RetentionConfig(Section):
    """The limits of the job `retention`, used when its schedule is switched on.

    Attributes:
        run_days: Runs of Dagster that ended longer ago, with their logs; those that made what is
            shown now stay.
        artifact_days: Artifacts that were replaced longer ago and nothing current was made from.
    """

    run_days: float = Field(default=180, ge=1)
    artifact_days: float = Field(default=30, ge=1)


class Operations(Extension):
    """What keeps a store small and whole."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Return `retention`."""
        return {"retention": RetentionConfig}

    def declare_assets(self) -> None:
        """Declare the job `retention` with its schedule."""
        import react_pipeline.extensions.operations.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline prune` and `verify`."""
        from react_pipeline.extensions.operations.commands import prune, verify

        for command in (prune, verify):
            app.command(rich_help_panel="Operate")(command)
