"""What served models add: the files with which MLflow loads and serves a trained checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from react_pipeline.extension import SaveModel
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact


class ServedModels(Extension):
    """Logged models that can be loaded."""

    def package_model(
        self, project: Project, checkpoint: Artifact, directory: Path
    ) -> SaveModel | None:
        """The exported folder of a trained checkpoint."""
        if checkpoint.stage != CUSTOMIZED_CHECKPOINT:
            return None
        from react_pipeline.extensions.served_models.package import package

        return package(project, checkpoint, directory)

    def refresh_model(
        self,
        client: MlflowClient,
        project: Project,
        checkpoint: tuple[str, str, str],
        model_id: str,
    ) -> None:
        """Its calibration by the newest result."""
        if checkpoint[0] == CUSTOMIZED_CHECKPOINT:
            from react_pipeline.extensions.served_models.package import refresh_calibration

            refresh_calibration(client, project, checkpoint, model_id)
