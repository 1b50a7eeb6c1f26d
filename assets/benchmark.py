"""The assets of the benchmark: a checkpoint's features, its figures on ELEVATER's data sets, base and methods compared.

They are apart from `evaluation`, which measures a domain's own labelled images. The command line leaves them out unless
`elevater.root` is set.
"""

import dagster as dg

from assets.corpus import base_checkpoint
from assets.domains import customized_checkpoint
from assets.partitions import domain_partitions, evaluation_partitions, to_domain, to_trained
from assets.reporting import about, publish
from assets.resources import ProjectParam, TrackingParam

GROUP = "benchmark"


@dg.asset(
    partitions_def=evaluation_partitions,
    group_name=GROUP,
    deps=[base_checkpoint, dg.AssetDep(customized_checkpoint, partition_mapping=to_trained)],
    pool="gpu",
    **about("benchmark_features", "torch", "numpy"),
)
def benchmark_features(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The images of ELEVATER's data sets as one checkpoint encodes them: the long part, done once.

    Every protocol then works on these arrays. Images that the same checkpoint has encoded before (the base, for another
    domain) are taken over. Data that are not there are listed with the reason.
    """
    from react_pipeline.elevater.features import publish_features

    return publish(context, project, tracking, publish_features)


@dg.asset(
    partitions_def=evaluation_partitions,
    group_name=GROUP,
    deps=[
        benchmark_features,
        base_checkpoint,
        dg.AssetDep(customized_checkpoint, partition_mapping=to_trained),
    ],
    pool="gpu",
    **about("benchmark_results", "torch", "parquet"),
)
def benchmark_results(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """One checkpoint on ELEVATER: zero-shot and, if shots are configured, after training on them; with predictions.

    Each data set has the class names, prompts and metric of the benchmark. A figure that could not be measured has a
    reason and no value, and a mean says of how many of the 20 data sets it is.
    """
    from react_pipeline.elevater.results import publish_results

    return publish(context, project, tracking, publish_results)


@dg.asset(
    partitions_def=domain_partitions,
    group_name=GROUP,
    deps=[dg.AssetDep(benchmark_results, partition_mapping=to_domain)],
    **about("benchmark_comparison", "parquet"),
)
def benchmark_comparison(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The base beside each method of the domain, data set by data set, on those that both were measured on."""
    from react_pipeline.elevater.comparison import compare_benchmarks

    return publish(context, project, tracking, compare_benchmarks)
