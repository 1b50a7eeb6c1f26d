"""What one pass adds: a corpus is read once for all domains whose pairs are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.project import Project
    from react_pipeline.store import Inputs


class OnePass(Extension):
    """Work that domains share."""

    def before_retrieval(self, project: Project, inputs: Inputs) -> None:
        """Search for other domains too."""
        from react_pipeline.extensions.one_pass.together import read_together

        read_together(project, inputs)
