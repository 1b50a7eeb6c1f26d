"""The entry point of the code location: `defs` is what Dagster loads.

Belongs here: the list of what there is. Does not belong here: any asset, check, sensor or resource
itself.
"""

from collections.abc import Collection, Mapping, Sequence

import dagster as dg

# Importing these declares their assets, checks and sensor.
from react_pipeline.assets import checks, domain_files, promotion, stages  # noqa: F401
from react_pipeline.assets.declared import (
    assets_of,
    checks_of,
    declare_all_of,
    instigators_of,
)
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.assets.runs import in_process
from react_pipeline.extension import brought
from react_pipeline.settings import METHODS, Method
from react_pipeline.stage import STAGES, left_out_stages
from react_pipeline.store import ReactError


def build_defs(
    methods: Sequence[str] = (),
    project: ProjectResource | None = None,
    executor: dg.ExecutorDefinition | None = in_process,
) -> dg.Definitions:
    """All definitions, of the stages that have keys for the methods, and data where they measure on
    data of their own.

    Args:
        methods: Partitions in addition to those that `methods` of pipeline.yaml names, for one
            launch.
        project: Unset: what the environment names, with no prefix.
        executor: By default all in one process: one for each step and check would load torch and
            these definitions again and again.
    """
    project = project or ProjectResource()
    whole = {name for name, _ in brought(declare_all_of)}
    # Without its blocking checks a stage is not shown.
    unchecked = {
        row.name
        for name, rows in brought(lambda extension: tuple(extension.stages()))
        if name not in whole
        for row in rows
    }
    configured: Collection[str]
    table: Mapping[str, Method]
    try:
        config = project.load().config
        configured = config.methods
        table = config.all_methods
        left_out = left_out_stages(config)
        two_encoders = config.two_encoders
    except ReactError:  # no asset or partition disappears then
        configured = table = METHODS
        left_out = set()
        two_encoders = True
    chosen = {*configured, *methods}
    partitioned = {name: method for name, method in table.items() if name in chosen}
    rows = [
        row
        for row in STAGES.values()
        if row.name not in {*left_out, *unchecked}
        and row.keys(["any"], partitioned, two_encoders, table)
    ]
    instigators = instigators_of(project, rows)
    return dg.Definitions(
        assets=[stages.domain_file(project), *assets_of(rows, partitioned, project)],
        asset_checks=checks_of(rows, partitioned, project),
        schedules=[one for one in instigators if isinstance(one, dg.ScheduleDefinition)],
        sensors=[one for one in instigators if isinstance(one, dg.SensorDefinition)],
        executor=executor,
    )


defs = build_defs()
