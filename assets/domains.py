"""The assets of one domain: the pairs retrieved for its class names, their control, and what is trained on them."""

import dagster as dg

from react_pipeline.assets.declared import DOMAIN_FILE, stage_asset
from react_pipeline.assets.partitions import domain_partitions
from react_pipeline.assets.processes import train
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import ProjectParam, TrackingParam
from react_pipeline.project import Project
from react_pipeline.store import Artifact

domain_file = dg.AssetSpec(
    DOMAIN_FILE,
    group_name="retrieval",
    partitions_def=domain_partitions,
    kinds={"yaml"},
    owners=["team:react"],
    description="The file of a domain in the folder `domains/`: class names, synonyms, prompts, where labelled images "
    "are, and what differs from pipeline.yaml. You write it; the sensor `domain_files` registers it and observes its "
    "changes, so that whatever was built of another version is shown as unsynced.",
)


@stage_asset
def evaluation_set(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The domain's labelled images, if it has any: never trained on, only measured with.

    It comes before retrieval so that none of its images, nor a near duplicate, can slip into the training pairs.
    """
    return publish(context, project, tracking)


@stage_asset
def retrieved_set(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """REACT's first idea: the pairs of the corpus that matter for this domain, found from its class names alone.

    Every class name in every prompt is a query against captions (T2T) and images (T2I). Duplicates and evaluation
    images are dropped, classes are capped, and the pairs are collected into training shards. Look at the contact sheet:
    if these images are wrong, nothing after them can be right.
    """
    return publish(context, project, tracking)


@stage_asset
def control_set(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """As many pairs as were retrieved, drawn at random from the same corpus.

    The control of the experiment: a gain that training on these gives too is no gain of retrieval.
    """
    return publish(context, project, tracking)


@stage_asset
def customized_checkpoint(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """REACT's second idea: the base model with new gated blocks, trained on the retrieved pairs; its own weights stay.

    Each new block starts with a closed gate, so that training begins exactly at the base model (a check asserts it).
    `gated-image` is the headline; `locked-text`, `locked-image` and `full` train the weights themselves; `linear-head`
    trains one vector per class on what the frozen base sees; `<method>-control` trains the same way on the control set.
    While it runs, its losses are in MLflow; with `processes` above 1 it runs under torchrun.

    There is a partition for every domain and each of the `methods` of pipeline.yaml.
    """

    def step(pipeline: Project, domain: str, method: str) -> Artifact:
        return train(context, pipeline, tracking, domain, method)

    return publish(context, project, tracking, step)
