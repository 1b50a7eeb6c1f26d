"""The component `ReactProjectComponent`: a project as a part of a team's Dagster, from YAML.

Belongs here: what the YAML of the component holds. Does not belong here: any definition
(`definitions`). The entry point in pyproject.toml shows it to `dg`.
"""

from typing import Annotated

import dagster as dg
from pydantic import Field

from react_pipeline.assets.resources import ProjectResource

PART = r"^[A-Za-z][A-Za-z0-9_]*$"


class ReactProjectComponent(dg.Component, dg.Resolvable, dg.Model):
    """The assets, checks, sensors and schedule of one project of react_pipeline."""

    config: str = Field(description="The pipeline.yaml, seen from the folder of the component.")
    key_prefix: list[Annotated[str, Field(pattern=PART)]] = Field(
        default=[],
        description="In front of all asset keys, and of the names of sensors, groups and "
        "partitions. Projects of one Dagster instance need different ones.",
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the project, run by the executor of the code location.

        Raises:
            dagster.DagsterInvalidDefinitionError: If there is no such file.
        """
        from react_pipeline.assets.definitions import build_defs

        path = (context.path / self.config).resolve()
        if not path.is_file():
            raise dg.DagsterInvalidDefinitionError(
                f"{context.path}: config: there is no file {path}; `react-pipeline init` makes one"
            )
        project = ProjectResource(str(path), tuple(self.key_prefix))
        return build_defs(project=project, executor=None)
