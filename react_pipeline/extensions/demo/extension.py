"""What the embedded demo adds: a kind of corpus, an encoder, a kind of labelled images, a
command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.settings import CorpusConfig, EvaluationSetConfig


class Demo(Extension):
    """A small real corpus, base model and labelled images, made of installed packages."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Drawings of emoji and icons."""
        from .corpus_kind import DrawnCorpus

        return (DrawnCorpus,)

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """Drawings of emoji."""
        from .corpus_kind import Drawings

        return (Drawings,)

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline demo`."""
        from .commands import demo

        app.command(rich_help_panel="Start")(demo)
