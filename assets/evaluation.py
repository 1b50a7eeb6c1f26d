"""The assets that measure: zero-shot results of each method, and their comparison per domain."""

import dagster as dg

from assets.corpus import base_checkpoint
from assets.domains import customized_checkpoint, evaluation_set
from assets.partitions import domain_partitions, evaluation_partitions, to_domain, to_trained
from assets.reporting import about, publish
from assets.resources import ProjectParam, TrackingParam

GROUP = "evaluation"


@dg.asset(
    partitions_def=evaluation_partitions,
    group_name=GROUP,
    deps=[
        base_checkpoint,
        dg.AssetDep(evaluation_set, partition_mapping=to_domain),
        dg.AssetDep(customized_checkpoint, partition_mapping=to_trained),
    ],
    pool="gpu",
    **about("elevater_results", "torch", "parquet"),
)
def elevater_results(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """Zero-shot accuracy of one method on the domain's labelled images, after ELEVATER's protocol.

    An image gets the class whose prompts lie nearest to it; no label is used for anything but counting. `base` is
    measured the same way with no training. Without labelled images the result is `unavailable`, with the reason.

    There is a partition for every domain and every method, and few of them are kept up: those whose method stands in
    `automation.methods` of pipeline.yaml. The others wait until somebody materializes them. Dagster counts them as
    missing and leaves the asset grey in the lineage; nothing is wrong.
    """
    from react_pipeline.evaluate import evaluate

    return publish(context, project, tracking, evaluate)


@dg.asset(
    partitions_def=domain_partitions,
    group_name=GROUP,
    deps=[dg.AssetDep(elevater_results, partition_mapping=to_domain)],
    **about("comparison", "plotly", "parquet"),
)
def comparison(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """Was it worth it? Every method of the domain beside the base and its control, with 95% intervals.

    A gain over the base counts only as far as the control, the same training on random pairs, does not share it. The
    artifact holds the tables, per class too, and `dashboard.html`: one page with figures, costs, classes that gained or
    lost, losses, and some of the retrieved pairs. It works offline.
    """
    from react_pipeline.compare import compare

    return publish(context, project, tracking, compare)


@dg.asset(group_name=GROUP, deps=[comparison], **about("overview", "plotly", "parquet"))
def overview(context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam) -> dg.MaterializeResult:
    """All domains on one page: the mean gain of each method over the base and over its control, and how sure it is.

    It takes the current comparison of every domain; a domain without one is named with the reason. A mean says of how
    many of the domains it is. The page, the tables and the figure are in its folder, and in MLflow.
    """
    from react_pipeline.overview import overview as publish_overview

    return publish(context, project, tracking, publish_overview)
