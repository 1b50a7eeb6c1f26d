"""What operations add: the section `retention` with its job, launching on a server, and
commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.settings import Section


class Operations(Extension):
    """Backups and retention."""

    def sections(self) -> Mapping[str, type[Section]]:
        """`retention`."""
        from react_pipeline.extensions.operations.settings import RetentionConfig

        return {"retention": RetentionConfig}

    def declare_assets(self) -> None:
        """The job `retention` with its schedule."""
        import react_pipeline.extensions.operations.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline backup`, `restore`, `prune` and `verify`."""
        from react_pipeline.extensions.operations.commands import backup, prune, restore, verify

        for command in (prune, verify, backup, restore):
            app.command(rich_help_panel="Operate")(command)
