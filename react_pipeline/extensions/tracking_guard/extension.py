"""What the guard of tracking adds: bounds of requests, and locations that follow a moved
project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from react_pipeline.extension import Extension

SQLITE = "sqlite:///"


class TrackingGuard(Extension):
    """Guards MLflow's client and database."""

    def prepare_tracking(self, uri: str) -> None:
        """Bound what a server may take, and rewrite locations in the database of a moved
        project.
        """
        from react_pipeline.extensions.tracking_guard.bounded_http import bound
        from react_pipeline.extensions.tracking_guard.relocation import relocate

        bound(uri)
        if uri.startswith(SQLITE):
            relocate(Path(uri.removeprefix(SQLITE)))

    def prepare_experiment(self, client: Any, experiment: Any, files: Path | None) -> None:
        """Refuse the files of a project at another place."""
        from react_pipeline.extensions.tracking_guard.relocation import require_here

        if files is not None:
            require_here(experiment, files)
