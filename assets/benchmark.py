"""The assets of the benchmark: a checkpoint's features, its figures on ELEVATER's data sets, base and methods compared.

They are apart from `evaluation`, which measures a domain's own labelled images. The command line leaves them out unless
`elevater.root` is set.
"""

import dagster as dg

from react_pipeline.assets.declared import stage_asset
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import ProjectParam, TrackingParam


@stage_asset
def benchmark_features(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The images of ELEVATER's data sets as one checkpoint encodes them: the slow part, done once.

    Every protocol then works on these arrays. Images that the same checkpoint encoded before (the base, for another
    domain) are reused. Missing data are listed with the reason.
    """
    return publish(context, project, tracking)


@stage_asset
def benchmark_results(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """One checkpoint on ELEVATER: zero-shot and, if shots are configured, after training on them; with predictions.

    Each data set has the class names, prompts and metric of the benchmark. A figure that could not be measured has a
    reason and no value, and a mean says of how many of the 20 data sets it is.
    """
    return publish(context, project, tracking)


@stage_asset
def benchmark_comparison(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The base beside each method of the domain, data set by data set, on those that both were measured on."""
    return publish(context, project, tracking)
