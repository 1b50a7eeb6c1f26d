"""Resources: the project that every asset, check, sensor and schedule receives.

Belongs here: where the configuration is found when Dagster runs a step, and the names of what the
project has in a Dagster instance that it shares. Does not belong here: reading or checking the
configuration (`react_pipeline.settings.config`).

Dagster shows it as a resource without configuration: who launches a run chooses what it makes, and
only who starts the servers chooses the files it reads and where it logs.
"""

from dataclasses import dataclass

import dagster as dg

from react_pipeline.project import CONFIG_VARIABLE, Project


@dataclass(frozen=True)
class ProjectResource:
    """The pipeline that the assets belong to.

    Attributes:
        config_path: A `pipeline.yaml`; empty: what `REACT_PIPELINE_CONFIG` names, else
            `pipeline.yaml` here.
        key_prefix: In front of every asset key and name, so that projects can share an instance.
    """

    config_path: str = ""
    key_prefix: tuple[str, ...] = ()

    def load(self) -> Project:
        """Read the configuration again, so that an edit applies from the next run on.

        Raises:
            InputError: If there is no such file.
            ConfigError: If it is wrong.
        """
        return Project.load(self.config_path)

    def shown(self) -> dg.ResourceDefinition:
        """The project as Dagster shows it under Deployment; no run can configure it."""
        path = self.config_path or f"{CONFIG_VARIABLE} of the servers, else pipeline.yaml"
        about = f"The project of these assets, checks, jobs, sensors and schedules: {path}"
        return dg.ResourceDefinition(lambda _: self, config_schema={}, description=about)

    def key(self, stage: str) -> dg.AssetKey:
        """The key of the asset of a stage."""
        return dg.AssetKey([*self.key_prefix, stage])

    def name(self, name: str) -> str:
        """The name of a sensor, schedule, group or partitions definition, and the step of a stage;
        as Dagster names the step of an asset by its key.
        """
        return "__".join([*self.key_prefix, name])


Context = dg.AssetExecutionContext
CheckContext = dg.AssetCheckExecutionContext


def find_project(context: Context) -> ProjectResource:
    """Return the project that the asset of a run belongs to, by the prefix of its key."""
    prefix = tuple(context.asset_key.path[:-1])
    project: ProjectResource = getattr(
        context.resources, ProjectResource(key_prefix=prefix).name("project")
    )
    return project
