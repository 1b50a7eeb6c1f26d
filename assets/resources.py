"""Resources: the project and its tracking, as every asset is given them.

Belongs here: where the configuration is found when Dagster runs a step. Does not belong here: reading or checking it
(`react_pipeline.settings.config`).

They are plain objects, which `fixed` keeps out of the configuration of a run: who launches a run chooses what it makes,
and only who starts the servers chooses the files it reads and where it logs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

import react_pipeline
from react_pipeline.project import Project
from react_pipeline.store import Artifact
from react_pipeline.tracking import LiveRun, Tracking

REPOSITORY = Path(react_pipeline.__file__).resolve().parents[1]
"""The folder that holds the package: a clone, or site-packages."""


def fixed(resource: Any) -> dg.ResourceDefinition:
    """The resource as it is: a run that brings a configuration of its own for it is refused."""
    return dg.ResourceDefinition(lambda _: resource, config_schema={})


@dataclass(frozen=True)
class ProjectResource:
    """The pipeline that the assets belong to.

    Attributes:
        config_path: A `pipeline.yaml`; empty: what `REACT_PIPELINE_CONFIG` names, else `pipeline.yaml` here.
    """

    config_path: str = ""

    def load(self) -> Project:
        """Read the configuration again, so that an edit applies from the next run on.

        Raises:
            ConfigError: If the file is missing or wrong.
        """
        return Project.load(self.config_path)


@dataclass(frozen=True)
class TrackingResource:
    """MLflow.

    Attributes:
        tracking_uri: Overrides the one of `pipeline.yaml`.
    """

    tracking_uri: str = ""

    def live(self, project: Project, run_id: str) -> LiveRun:
        """The observer that shows a training in MLflow while it runs."""
        return LiveRun.of(project, self.tracking_uri or None, run_id)

    def log(self, project: Project, artifact: Artifact, run_id: str) -> dict[str, dg.MetadataValue]:
        """Log an artifact; returns the metadata that leads to its MLflow run. Never fails the step."""
        tracking = Tracking.of(project, self.tracking_uri or None)
        tracked = tracking.log_artifact(project, artifact, run_id)
        if tracked is None:
            return {"mlflow": dg.MetadataValue.text("tracking unavailable, will be logged at the next run")}
        url = tracking.url(tracked)
        shown = dg.MetadataValue.url(url) if url else dg.MetadataValue.text("open it with `react-pipeline ui`")
        return {"mlflow": shown, "mlflow_run_id": dg.MetadataValue.text(tracked)}


ProjectParam = dg.ResourceParam[ProjectResource]
TrackingParam = dg.ResourceParam[TrackingResource]
"""By these annotations Dagster hands a resource to an asset, check, sensor or schedule."""

Context = dg.AssetExecutionContext
CheckContext = dg.AssetCheckExecutionContext
