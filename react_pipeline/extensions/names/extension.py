"""Adds a check of names in captions, and `react-pipeline domains names`."""

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer


class Names(Extension):
    """Which captions say the names of classes."""

    def declare_assets(self) -> None:
        """Declare the check that captions name every class."""
        import react_pipeline.extensions.names.assets  # noqa: F401

    def add_commands(self, app: "typer.Typer") -> None:
        """Add `react-pipeline domains names`."""
        from react_pipeline.commands import (
            Config,
            Domain,
            console,
            domains_app,
            load_project,
            print_table,
        )

        @domains_app.command("names")
        def list_names(domain: Domain, config: Config = None) -> None:
            """Count the captions that contain each name of a domain, and show the most frequent
            name of each class. Write that one first in the domain's file: the zero-shot head uses
            it.
            """
            project = load_project(config, [domain])
            from react_pipeline.extensions.names.name_counts import domain_names

            counts = domain_names(project, domain)
            shown = ["class", "name", "captions"]
            print_table(shown, counts[shown].to_numpy().tolist())
            # Of equally frequent names the first one of the file.
            best = counts.loc[counts.groupby("class_id")["captions"].idxmax(), "name"]
            for first, name in zip(project.domain(domain).prompt_names, best, strict=True):
                if name != first:
                    console.print(f"{first}: {name} is more frequent")
