"""What names in captions add: the mode `lexical`, counts of names in the report of a retrieved set,
its check, and `react-pipeline domains names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.project import Project
    from react_pipeline.retrieval import ClassNotes, ClassTable, SearchMode


class Names(Extension):
    """Which captions say the names of classes."""

    def modes(self) -> Mapping[str, SearchMode]:
        """`lexical`."""
        from react_pipeline.extensions.names.lexical import lexical_hits

        return {"lexical": lexical_hits}

    def describe_classes(self, table: ClassTable) -> Mapping[str, ClassNotes]:
        """How many captions say each name, and classes that none names."""
        from react_pipeline.extensions.names.unnamed import describe_classes

        return {"names": describe_classes(table)}

    def domain_notes(self, project: Project, slugs: Iterable[str]) -> Iterable[str]:
        """Classes that no caption names, if the corpus is embedded and small."""
        from react_pipeline.extensions.names.commands import unnamed_notes

        return unnamed_notes(project, list(slugs))

    def declare_assets(self) -> None:
        """The check that captions name every class."""
        import react_pipeline.extensions.names.assets  # noqa: F401

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline domains names`."""
        from react_pipeline.commands import domains_app
        from react_pipeline.extensions.names.commands import list_names

        domains_app.command("names")(list_names)
