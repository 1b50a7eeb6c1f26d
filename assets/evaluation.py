"""The assets that measure: zero-shot results of each method, and their comparison per domain."""

import dagster as dg

from assets.corpus import base_checkpoint
from assets.domains import customized_checkpoint, evaluation_set
from assets.partitions import domain_partitions, evaluation_partitions, to_domain, to_trained
from assets.reporting import about, publish
from assets.resources import ProjectResource, TrackingResource

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
    context: dg.AssetExecutionContext, project: ProjectResource, tracking: TrackingResource
) -> dg.MaterializeResult:
    """Zero-shot accuracy of one method on the domain's labelled images, after ELEVATER's protocol.

    An image gets the class whose prompts lie nearest to it; no label is used for anything but counting. `base` is
    measured the same way with no training. Without labelled images the result is `unavailable`, with the reason.
    """
    from react_pipeline.evaluate import evaluate

    return publish(context, project, tracking, evaluate)


@dg.asset(
    partitions_def=domain_partitions,
    group_name=GROUP,
    deps=[dg.AssetDep(elevater_results, partition_mapping=to_domain)],
    **about("comparison", "parquet"),
)
def comparison(
    context: dg.AssetExecutionContext, project: ProjectResource, tracking: TrackingResource
) -> dg.MaterializeResult:
    """Every method of the domain in one table, each beside the base and its control: was it worth it?"""
    from react_pipeline.compare import compare

    return publish(context, project, tracking, compare)
