"""Resources: the project, as every asset is given it.

Belongs here: where the configuration is found when Dagster runs a step. Does not belong here:
reading or checking it (`react_pipeline.settings.config`).

It is a plain object, which `fixed` keeps out of the configuration of a run: who launches a run
chooses what it makes, and only who starts the servers chooses the files it reads and where it logs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

import react_pipeline
from react_pipeline.project import Project

REPOSITORY = Path(react_pipeline.__file__).resolve().parents[1]
"""The folder that holds the package: a clone, or site-packages."""


def fixed(resource: Any) -> dg.ResourceDefinition:
    """The resource as it is: a run that brings a configuration of its own for it is refused."""
    return dg.ResourceDefinition(lambda _: resource, config_schema={})


@dataclass(frozen=True)
class ProjectResource:
    """The pipeline that the assets belong to.

    Attributes:
        config_path: A `pipeline.yaml`; empty: what `REACT_PIPELINE_CONFIG` names, else
            `pipeline.yaml` here.
    """

    config_path: str = ""

    def load(self) -> Project:
        """Read the configuration again, so that an edit applies from the next run on.

        Raises:
            ConfigError: If the file is missing or wrong.
        """
        return Project.load(self.config_path)


ProjectParam = dg.ResourceParam[ProjectResource]
"""By this annotation Dagster hands the resource to an asset, check, sensor or schedule."""

Context = dg.AssetExecutionContext
CheckContext = dg.AssetCheckExecutionContext
