"""The entry point of the code location: `defs` is what Dagster loads.

Belongs here: the list of what there is. Does not belong here: any asset, check, sensor or resource itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

# Importing these declares their assets and checks.
from react_pipeline.assets import automation, benchmark_checks, checks, promotion, stages  # noqa: F401
from react_pipeline.assets.declared import assets_of, checks_of
from react_pipeline.assets.resources import ProjectResource, TrackingResource, fixed
from react_pipeline.assets.upkeep_sensor import upkeep
from react_pipeline.settings import METHODS, AutomationConfig
from react_pipeline.store import ReactError


def build_defs(
    methods: Sequence[str] = (), loggers: Mapping[str, dg.LoggerDefinition] | None = None, **resource_overrides: Any
) -> dg.Definitions:
    """All definitions.

    Args:
        methods: Partitions beside those that `methods` of pipeline.yaml names, for one launch.
        loggers: Of Dagster, beside its own.
        resource_overrides: Replace `project` or `tracking`, in tests or from the command line.
    """
    resources = {"project": ProjectResource(), "tracking": TrackingResource(), **resource_overrides}
    try:
        config = resources["project"].load().config
        configured, settings = config.methods, config.automation
    except ReactError:  # nothing is automatic then, and no partition disappears
        configured, settings = METHODS, AutomationConfig(schedule=None)
    wanted = [method for method in METHODS if method in {*configured, *methods}]
    return dg.Definitions(
        assets=[stages.domain_file, *assets_of(wanted)],
        asset_checks=checks_of(wanted),
        jobs=automation.jobs(),
        schedules=automation.recustomize(settings),
        sensors=[automation.domain_files, automation.freshness, upkeep(settings)],
        # A process for each step and check would load torch and these definitions again and again.
        executor=dg.in_process_executor,
        resources={name: fixed(resource) for name, resource in resources.items()},
        loggers=loggers,
    )


defs = build_defs()
