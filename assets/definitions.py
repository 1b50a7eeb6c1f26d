"""The entry point of the code location: `defs` is what Dagster loads.

Belongs here: the list of what there is. Does not belong here: any asset, check, sensor or resource
itself.
"""

from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from react_pipeline.assets import automation, checks, promotion, stages  # noqa: F401
from react_pipeline.assets.declared import assets_of, checks_of, schedules_of, sensors_of
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.assets.upkeep_sensor import upkeep
from react_pipeline.extension import brought, extensions

# Importing these declares their assets and checks.
from react_pipeline.settings import METHODS, AutomationConfig, Method
from react_pipeline.stage import STAGES
from react_pipeline.store import ReactError
from react_pipeline.upkeep import left_out_stages


def build_defs(
    methods: Sequence[str] = (),
    project: ProjectResource | None = None,
    executor: dg.ExecutorDefinition | None = dg.in_process_executor,
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
    whole = {name for name, _ in brought(lambda extension: extension.declare_assets())}
    # Without its blocking checks a stage is not shown.
    unchecked = {
        row.name for name, ext in extensions().items() if name not in whole for row in ext.stages()
    }
    configured: Collection[str]
    table: Mapping[str, Method]
    try:
        config = project.load().config
        configured = config.methods
        table = config.all_methods
        settings = config.automation
        left_out = left_out_stages(config)
        two_encoders = config.two_encoders
    except ReactError:  # nothing is automatic then, and no asset or partition disappears
        configured = table = METHODS
        settings = AutomationConfig(schedule=None)
        left_out = set()
        two_encoders = True
    partitioned = [method for method in table if method in {*configured, *methods}]
    rows = [
        row
        for row in STAGES.values()
        if row.name not in {*left_out, *unchecked}
        and row.keys(["any"], partitioned, two_encoders, table)
    ]
    return dg.Definitions(
        assets=[stages.domain_file(project), *assets_of(rows, partitioned, table, project)],
        asset_checks=checks_of(rows, partitioned, table, project),
        schedules=[*automation.recustomize(settings, rows, project), *schedules_of(project)],
        sensors=[upkeep(settings, [row.name for row in rows], project), *sensors_of(project)],
        executor=executor,
    )


defs = build_defs()
