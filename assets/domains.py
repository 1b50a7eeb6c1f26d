"""The assets of one domain: the pairs retrieved for its class names, their control, and what is trained on them."""

import dagster as dg

from assets.corpus import base_checkpoint, corpus, corpus_embeddings, faiss_index
from assets.partitions import domain_partitions, to_domain, training_partitions
from assets.processes import train
from assets.reporting import about, publish
from assets.resources import ProjectParam, TrackingParam
from react_pipeline.artifacts import Artifact
from react_pipeline.lineage import Project

GROUP = "retrieval"

domain_file = dg.AssetSpec(
    "domain_file",
    group_name=GROUP,
    partitions_def=domain_partitions,
    kinds={"yaml"},
    owners=["team:react"],
    description="The file of a domain in the folder `domains/`: class names, synonyms, prompts, where labelled images "
    "lie, and what differs from pipeline.yaml. You write it; the sensor `domain_files` registers it and observes its "
    "changes, so that whatever was built of another version is shown as unsynced.",
)


@dg.asset(
    partitions_def=domain_partitions,
    group_name="evaluation",
    deps=[domain_file],
    **about("evaluation_set", "parquet"),
)
def evaluation_set(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The domain's labelled images, if it has any: never trained on, only measured with.

    It stands before retrieval so that none of its images, nor a near duplicate, can slip into the training pairs.
    """
    from react_pipeline.retrieval.labelled import publish_evaluation_set

    return publish(context, project, tracking, publish_evaluation_set)


@dg.asset(
    partitions_def=domain_partitions,
    group_name=GROUP,
    deps=[domain_file, corpus, base_checkpoint, corpus_embeddings, faiss_index, evaluation_set],
    pool="gpu",
    **about("retrieved_set", "parquet", "webdataset"),
)
def retrieved_set(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """REACT's first idea: the pairs of the corpus that matter for this domain, found from its class names alone.

    Every class name in every prompt is a query against captions (T2T) and images (T2I). Duplicates and evaluation
    images are dropped, classes are capped, and the pairs are collected into training shards. Look at the contact sheet:
    if these images are wrong, nothing after them can be right.
    """
    from react_pipeline.retrieve import retrieve_pairs

    return publish(context, project, tracking, retrieve_pairs)


@dg.asset(
    partitions_def=domain_partitions,
    group_name=GROUP,
    deps=[corpus, base_checkpoint, corpus_embeddings, retrieved_set, evaluation_set],
    pool="gpu",
    **about("control_set", "parquet", "webdataset"),
)
def control_set(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """As many pairs as were retrieved, drawn at random from the same corpus.

    The control of the experiment: a gain that training on these gives too is no gain of retrieval.
    """
    from react_pipeline.retrieve import draw_control

    return publish(context, project, tracking, draw_control)


@dg.asset(
    partitions_def=training_partitions,
    group_name="customization",
    deps=[
        base_checkpoint,
        dg.AssetDep(retrieved_set, partition_mapping=to_domain),
        dg.AssetDep(control_set, partition_mapping=to_domain),
    ],
    pool="gpu",
    **about("customized_checkpoint", "torch", "pytorch"),
)
def customized_checkpoint(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """REACT's second idea: the base model with new gated blocks, trained on the retrieved pairs; its own weights stay.

    Each new block starts with a closed gate, so that training begins exactly at the base model (a check asserts it).
    `gated-image` is the headline; `locked-text`, `locked-image` and `full` train the weights themselves; `linear-head`
    trains one vector per class on what the frozen base sees; `<method>-control` trains the same way on the control set.
    While it runs, its losses are in MLflow; with `processes` above 1 it runs under torchrun.

    There is a partition for every domain and every method, and few of them are kept up: those whose method stands in
    `automation.methods` of pipeline.yaml. The others wait until somebody materializes them. Dagster counts them as
    missing and leaves the asset grey in the lineage; nothing is wrong.
    """

    def step(pipeline: Project, domain: str, method: str) -> Artifact:
        return train(context, pipeline, tracking, domain, method)

    return publish(context, project, tracking, step)
