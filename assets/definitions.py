"""The entry point of the code location: `defs` is what Dagster loads.

Belongs here: the list of what there is. Does not belong here: any asset, check, sensor or resource itself.
"""

import dagster as dg

from assets import automation, benchmark, benchmark_checks, checks, corpus, domains, evaluation
from assets.resources import ProjectResource, TrackingResource


def build_defs(**resource_overrides: object) -> dg.Definitions:
    """All definitions; `resource_overrides` replaces `project` or `tracking`, in tests or from the command line."""
    return dg.Definitions(
        assets=dg.load_assets_from_modules([corpus, domains, evaluation, benchmark]),
        asset_checks=dg.load_asset_checks_from_modules([checks, benchmark_checks]),
        sensors=[automation.domain_files],
        resources={"project": ProjectResource(), "tracking": TrackingResource(), **resource_overrides},
    )


defs = build_defs()
