"""Jobs: what a person launches as a whole, one for each scope of partitions.

A job takes its partitions from one definition, so what comes after the pairs of a domain, one
partition for each method, is launched from the graph of the assets or asked for by `upkeep`.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from react_pipeline.assets.resources import ProjectResource
from react_pipeline.stage import Stage


def declare_jobs(project: ProjectResource, stages: Sequence[Stage]) -> list[Any]:
    """Return the jobs of one project, of those stages that are its assets."""
    made = [row for row in stages if not row.gathers]

    def selected(scope: str) -> dg.AssetSelection:
        return dg.AssetSelection.assets(
            *(project.key(row.name) for row in made if row.scope == scope)
        )

    return [
        dg.define_asset_job(
            project.name("refresh_corpus"),
            selected("all"),
            description="Reads the corpus and the checkpoints again, and embeds and indexes what is "
            "new.",
        ),
        dg.define_asset_job(
            project.name("customize_domain"),
            selected("domain"),
            description="Reads the labelled images of a domain again, and retrieves its pairs and "
            "their control, from which its models are then trained.",
        ),
    ]
