"""What judging adds: the command `judge`, and judgements as evidence on models without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.evaluation import Column, Evidence
    from react_pipeline.project import Project


class Judging(Extension):
    """Verdicts without labels."""

    def columns(self) -> Iterable[Column]:
        """`judged_delta`, `judged_gain`, `judged`."""
        from react_pipeline.extensions.judging.columns import COLUMNS

        return COLUMNS

    def evidence(self, project: Project, slug: str) -> Mapping[str, Evidence]:
        """The judgements of a domain that hold today, if there are any."""
        from react_pipeline.extensions.judging.judgements import JUDGEMENTS, judgements_of

        judgements = judgements_of(project, slug)
        return {} if judgements is None else {JUDGEMENTS: judgements}

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline judge`."""
        from react_pipeline.extensions.judging.commands import judge

        app.command(rich_help_panel="Use a model")(judge)
