"""What the embedded demo adds: a kind of corpus, an encoder, a kind of labelled images, a
command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.clip import BuiltEncoder
    from react_pipeline.project import Project
    from react_pipeline.settings import CorpusConfig, EvaluationSetConfig


class Demo(Extension):
    """A small real corpus, base model and labelled images, made of installed packages."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Drawings of emoji and icons."""
        from .corpus_kind import DrawnCorpus

        return (DrawnCorpus,)

    def encoders(self) -> Iterable[BuiltEncoder]:
        """Two public networks, joined."""
        from .encoder import JoinedNetworks

        return (JoinedNetworks(),)

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """Drawings of emoji."""
        from .labelled_kind import Drawings

        return (Drawings,)

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline demo`."""
        from .commands import demo

        app.command(rich_help_panel="Start")(demo)

    def findings(self, project: Project) -> Iterable[tuple[str, str, str, str]]:
        """Whether its packages are installed, where a project uses them."""
        config = project.config
        if "demo" in (config.corpus.kind, config.encoder.model, config.retrieves_with.model):
            from react_pipeline.installation import install_command

            from .packages import missing_packages

            if missing := missing_packages():
                detail = f"not installed: {', '.join(missing)}"
                yield "demo", "missing", detail, install_command("demo")
            else:
                yield "demo", "ok", "all packages there", ""
