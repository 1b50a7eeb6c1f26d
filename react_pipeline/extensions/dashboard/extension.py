"""What dashboards add: `dashboard.html` of a comparison, and of the overview of all domains, and the
command `report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    import typer

    from react_pipeline.evaluation import Compared, Overview


class Dashboards(Extension):
    """Pages with figures."""

    def comparison_pages(self, compared: Compared) -> Mapping[str, str]:
        """The page of a domain."""
        from react_pipeline.extensions.dashboard.pages import domain_page

        return {"dashboard.html": domain_page(compared)}

    def overview_pages(self, overview: Overview) -> Mapping[str, str]:
        """The page of all domains."""
        from react_pipeline.extensions.dashboard.pages import overview_page

        return {"dashboard.html": overview_page(overview.table, overview.comparisons)}

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline report`."""
        from react_pipeline.extensions.dashboard.commands import report

        app.command()(report)
