"""The assets, in the order of the data: each a step of `react_pipeline.pipeline`, with what it is
for.

Belongs here: what a Dagster user reads of an asset. Does not belong here: what the table of stages
says of it (parents, partitions, kinds, pools: see `declared`), what it reports (`reporting`),
`promotion`, the checks.
"""

import dagster as dg

from react_pipeline.assets.declared import DOMAIN_FILE, stage_asset
from react_pipeline.assets.partitions import domain_partitions
from react_pipeline.assets.processes import train
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context, ProjectParam
from react_pipeline.project import Project
from react_pipeline.store import Artifact


@stage_asset
def corpus(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The image-text pairs that everything is retrieved from.

    REACT needs no labels of its own: all that it teaches the model about your classes it finds in a
    large collection of images with captions, here as webdataset shards (tar files). This asset is
    the inventory of the shards: each one's size and SHA-256, so that a changed shard is noticed by
    all that follows.
    """
    return publish(context, project)


@stage_asset
def base_checkpoint(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The CLIP to customize: the encoder of the corpus, the start of every training, and what
    results are held against.

    Kept as safetensors with its own open_clip configuration (activation and normalisation
    included), so that it loads the same way everywhere.
    """
    return publish(context, project)


@stage_asset
def retrieval_checkpoint(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The CLIP that retrieves, where `retrieval_encoder` names another than the base: it embeds
    corpus and prompts.

    So published vectors, such as DataComp's of ViT-L/14, serve any base.
    """
    return publish(context, project)


@stage_asset
def corpus_embeddings(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """A unit vector for every image and every caption of the corpus, in clip-retrieval's layout.

    Both come from the same CLIP, so texts and images share one space where a dot product is a
    similarity. Each row knows the shard and the byte range of its image; every skipped sample is in
    a ledger with the reason.
    """
    return publish(context, project)


@stage_asset
def faiss_index(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The search index over the image vectors and over the caption vectors.

    Small corpora are searched exactly, large ones approximately; recall@10 against exact search is
    measured either way.
    """
    return publish(context, project)


domain_file = dg.AssetSpec(
    DOMAIN_FILE,
    group_name="retrieval",
    partitions_def=domain_partitions,
    kinds={"yaml"},
    owners=["team:react"],
    description="The file of a domain in the folder `domains/`: class names, synonyms, prompts, "
    "where labelled images are, and what differs from pipeline.yaml. You write it; the sensor "
    "`domain_files` registers it and reports its changes, so that what was built by another "
    "version is shown as unsynced.",
)


@stage_asset
def evaluation_set(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The domain's labelled images, if it has any: never trained on, only measured with.

    It comes before retrieval so that none of its images, nor a near duplicate, can slip into the
    training pairs.
    """
    return publish(context, project)


@stage_asset
def retrieved_set(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """REACT's first idea: the pairs of the corpus that matter for this domain, found from its class
    names alone.

    Every class name in every prompt is a query against captions (T2T) and images (T2I). Duplicates
    and evaluation images are dropped, classes are capped, and the pairs are collected into training
    shards. Look at the contact sheet: if these images are wrong, nothing after them can be right.
    """
    return publish(context, project)


@stage_asset
def control_set(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """As many pairs as were retrieved, drawn at random from the same corpus.

    The control of the experiment: a gain that training on these gives too does not come from
    retrieval.
    """
    return publish(context, project)


@stage_asset
def customized_checkpoint(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """REACT's second idea: the base model with new gated blocks, trained on the retrieved pairs;
    its own weights stay.

    Each new block starts with a closed gate, so that training begins exactly at the base model (a
    check asserts it). `gated-image` is the headline; `locked-text`, `locked-image` and `full` train
    the weights themselves; `linear-head` trains one vector per class on what the frozen base sees;
    `<method>-control` trains the same way on the control set. While it runs, its losses are in
    MLflow; with `processes` above 1 it runs under torchrun.

    There is a partition for every domain and each of the `methods` of pipeline.yaml.
    """

    def step(pipeline: Project, domain: str, method: str) -> Artifact:
        return train(context, pipeline, domain, method)

    return publish(context, project, step)


@stage_asset
def domain_results(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """Zero-shot accuracy of one method on the domain's labelled images, after ELEVATER's protocol.

    An image gets the class whose prompts are nearest to it; labels are only used for counting.
    `base` is measured the same way with no training. Without labelled images the result is
    `unavailable`, with the reason.

    There is a partition for every domain and each of the `methods` of pipeline.yaml.
    """
    return publish(context, project)


@stage_asset
def comparison(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """Every method of the domain compared with the base and its control, with 95% intervals.

    A gain over the base counts only as far as the control, the same training on random pairs, does
    not share it. The artifact holds the tables, per class too, and `dashboard.html`: one page with
    figures, costs, classes that gained or lost, losses, and some of the retrieved pairs. It works
    offline.
    """
    return publish(context, project)


@stage_asset
def overview(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """All domains on one page: the mean gain of each method over the base and over its control, and
    how sure it is.

    It takes the current comparison of every domain; a domain without one is named with the reason.
    A mean says of how many of the domains it is. The page, the tables and the figure are in its
    folder, and in MLflow.
    """
    return publish(context, project)


@stage_asset
def benchmark_features(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The images of ELEVATER's data sets as one checkpoint encodes them: the slow part, done once.

    Every protocol then works on these arrays. Images that the same checkpoint encoded before (the
    base, for another domain) are reused. Missing data are listed with the reason.
    """
    return publish(context, project)


@stage_asset
def benchmark_results(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """One checkpoint on ELEVATER: zero-shot and, if shots are configured, after training on them;
    with predictions.

    Each data set has the class names, prompts and metric of the benchmark. A figure that could not
    be measured has a reason and no value, and a mean says of how many of the 20 data sets it is.
    """
    return publish(context, project)


@stage_asset
def benchmark_comparison(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The base compared with each method of the domain, data set by data set, on those that both
    were measured on.
    """
    return publish(context, project)


@stage_asset
def dense_results(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """One checkpoint on images with boxes (AP, AP50) and with label maps (mIoU), by the class names
    alone.

    Regions are crops or are cut from the dense features of the image tower, gated blocks included;
    nothing is trained on boxes or masks. A figure that could not be measured has a reason and no
    value.
    """
    return publish(context, project)


@stage_asset
def dense_comparison(context: Context, project: ProjectParam) -> dg.MaterializeResult:
    """The base compared with each method of the domain, set by set, with pictures: truth, base,
    methods.
    """
    return publish(context, project)
