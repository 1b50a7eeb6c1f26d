"""What guard sets add: the stage `guard_results`, the section `guards`, and drops as evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.settings import Section
    from react_pipeline.stage import Stage


class Guards(Extension):
    """Labelled sets outside the domains."""

    def sections(self) -> Mapping[str, type[Section]]:
        """`guards`."""
        from react_pipeline.extensions.guards.stages import GuardsConfig

        return {"guards": GuardsConfig}

    def stages(self) -> Iterable[Stage]:
        """`guard_results`."""
        from react_pipeline.extensions.guards.stages import STAGES

        return STAGES
