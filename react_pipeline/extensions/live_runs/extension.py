"""What live runs add: the losses of a training in MLflow, while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.extensions.live_runs.live import LiveRun
    from react_pipeline.project import Project


class LiveRuns(Extension):
    """Trainings as they go on."""

    def training_observer(self, project: Project, run_id: str) -> LiveRun:
        """The run of the training in MLflow."""
        from react_pipeline.extensions.live_runs.live import LiveRun

        return LiveRun.of(project, run_id)
