"""What dashboards add: the stage `overview`, and `dashboard.html` of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension
from react_pipeline.stage import Stage

if TYPE_CHECKING:
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact


def _overview(project: Project) -> Artifact:
    from react_pipeline.extensions.dashboard.overview import overview

    return overview(project)


def _overview_is_current(project: Project) -> Artifact:
    from react_pipeline.extensions.dashboard.overview import overview_is_current

    return overview_is_current(project)


class Dashboards(Extension):
    """Pages with figures."""

    def stages(self) -> Iterable[Stage]:
        """`overview`."""
        yield Stage(
            "overview",
            "all domains side by side, with the mean gain of each method over the base; see "
            "dashboard.html",
            "all",
            step=_overview,
            gathers=("comparison",),
            is_current=_overview_is_current,
            version="2",
            group="evaluation",
            kinds=("plotly", "parquet"),
            priority=65,
        )
