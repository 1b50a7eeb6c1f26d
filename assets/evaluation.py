"""The assets that measure: zero-shot results of each method, and their comparison per domain."""

import dagster as dg

from react_pipeline.assets.declared import stage_asset
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import ProjectParam, TrackingParam


@stage_asset
def domain_results(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """Zero-shot accuracy of one method on the domain's labelled images, after ELEVATER's protocol.

    An image gets the class whose prompts are nearest to it; labels are only used for counting. `base` is
    measured the same way with no training. Without labelled images the result is `unavailable`, with the reason.

    There is a partition for every domain and each of the `methods` of pipeline.yaml.
    """
    return publish(context, project, tracking)


@stage_asset
def comparison(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """Every method of the domain beside the base and its control, with 95% intervals.

    A gain over the base counts only as far as the control, the same training on random pairs, does not share it. The
    artifact holds the tables, per class too, and `dashboard.html`: one page with figures, costs, classes that gained or
    lost, losses, and some of the retrieved pairs. It works offline.
    """
    return publish(context, project, tracking)


@stage_asset
def overview(context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam) -> dg.MaterializeResult:
    """All domains on one page: the mean gain of each method over the base and over its control, and how sure it is.

    It takes the current comparison of every domain; a domain without one is named with the reason. A mean says of how
    many of the domains it is. The page, the tables and the figure are in its folder, and in MLflow.
    """
    return publish(context, project, tracking)
