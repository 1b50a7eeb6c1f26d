"""What live runs add: losses of a training in MLflow while it runs, and its accuracy on labelled
images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.clip import Clip
    from react_pipeline.extensions.live_runs.live import LiveRun
    from react_pipeline.project import Project
    from react_pipeline.training import Customization, Probe


class LiveRuns(Extension):
    """Trainings as they go on."""

    def training_observer(self, project: Project, run_id: str) -> LiveRun:
        """The run of the training in MLflow."""
        from react_pipeline.extensions.live_runs.live import LiveRun

        return LiveRun.of(project, run_id)

    def training_probe(self, customization: Customization, clip: Clip) -> Probe | None:
        """As of `labelled_accuracy`."""
        from react_pipeline.extensions.live_runs.labelled_accuracy import labelled_accuracy

        return labelled_accuracy(customization.project, customization.domain.slug, clip)
