"""The entry point of the code location: `defs` is what Dagster loads.

Belongs here: the list of what there is. Does not belong here: any asset, check, sensor or resource itself.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import automation, benchmark, benchmark_checks, checks, corpus, domains, evaluation, freshness, promotion
from assets.conditions import condition_of
from assets.resources import ProjectResource, TrackingResource, fixed


def build_defs(loggers: Mapping[str, dg.LoggerDefinition] | None = None, **resource_overrides: Any) -> dg.Definitions:
    """All definitions; `resource_overrides` replaces `project` or `tracking`, in tests or from the command line."""
    resources = {"project": ProjectResource(), "tracking": TrackingResource(), **resource_overrides}
    settings = automation.settings_of(resources["project"])
    outdated, condition = condition_of(resources["project"])
    modules = [corpus, domains, evaluation, promotion, benchmark]
    return dg.Definitions(
        assets=[*dg.load_assets_from_modules(modules, automation_condition=condition), domains.domain_file],
        asset_checks=dg.load_asset_checks_from_modules([checks, freshness, promotion, benchmark_checks]),
        jobs=automation.jobs(),
        schedules=automation.recustomize(settings),
        sensors=[automation.domain_files, freshness.freshness, automation.upkeep(outdated, settings)],
        # A process for each step and check would load torch and these definitions again and again.
        executor=dg.in_process_executor,
        resources={name: fixed(resource) for name, resource in resources.items()},
        loggers=loggers,
    )


defs = build_defs()
