"""Adds the section `retention` with its job, and commands on the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.settings import Section


class Operations(Extension):
    """What keeps a store small and whole."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Return `retention`."""
        from react_pipeline.extensions.operations.settings import RetentionConfig

        return {"retention": RetentionConfig}

    def declare_assets(self) -> None:
        """Declare the job `retention` with its schedule."""
        import react_pipeline.extensions.operations.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline prune` and `verify`."""
        from react_pipeline.extensions.operations.commands import prune, verify

        for command in (prune, verify):
            app.command(rich_help_panel="Operate")(command)
