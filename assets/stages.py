"""The assets, in the order of the data: each a step of `react_pipeline.stage`, with what it is
for.

Belongs here: what a Dagster user reads of an asset. Does not belong here: what the table of stages
says of it (parents, partitions, kinds, pools: see `declared`), what it reports (`reporting`),
`promotion`, the checks.
"""

from functools import partial

import dagster as dg

from react_pipeline.assets.declared import asset_text, stage_asset
from react_pipeline.assets.partitions import domain_partitions
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context, ProjectResource
from react_pipeline.assets.training import customize_here
from react_pipeline.stage import DOMAIN_FILE


@asset_text
def corpus() -> None:
    """The image-text pairs that everything is retrieved from.

    REACT needs no labels: all that it teaches the model about your classes comes from a large
    collection of images with captions, such as webdataset shards (tar files). This asset is the
    inventory of its files. Of local shards it has size and SHA-256, so that all later steps notice
    a changed one.
    """


@asset_text
def base_checkpoint() -> None:
    """The CLIP to customize: the encoder of the corpus, the start of every training, and what
    results are held against.

    Kept as safetensors with its own open_clip configuration (activation and normalisation
    included), so that it loads the same way everywhere.
    """


@asset_text
def retrieval_checkpoint() -> None:
    """The CLIP that retrieves, where `retrieval_encoder` names another than the base: it embeds
    corpus and prompts.

    So published vectors, such as DataComp's of ViT-L/14, serve any base.
    """


@asset_text
def corpus_embeddings() -> None:
    """A unit vector for every image and every caption of the corpus, in clip-retrieval's layout.

    Both come from the same CLIP, so texts and images share one space where a dot product is a
    similarity. Each row knows the shard and the byte range of its image; every skipped sample is in
    a ledger with the reason.
    """


@asset_text
def faiss_index() -> None:
    """The search index over the image vectors and over the caption vectors.

    Small corpora are searched exactly, large ones approximately; recall@10 against exact search is
    measured either way.
    """


def domain_file(project: ProjectResource) -> dg.AssetSpec:
    """The asset of the domain files of a project."""
    return dg.AssetSpec(
        project.key(DOMAIN_FILE),
        group_name=project.name("domain"),
        partitions_def=domain_partitions(project),
        kinds={"yaml"},
        owners=["team:react"],
        description="The file of a domain in the folder `domains/`: class names, synonyms, "
        "prompts, where labelled images are, and what differs from pipeline.yaml. You write it; "
        "the sensor `domain_files` registers it and reports its changes, so that what was built by "
        "another version is shown as unsynced.",
    )


@asset_text
def evaluation_set() -> None:
    """The domain's labelled images, if it has any: never trained on, only measured with.

    It comes before retrieval so that none of its images, nor a near duplicate, can slip into the
    training pairs.
    """


@asset_text
def few_shot_set() -> None:
    """The domain's `shots`: a few labelled pictures of each class, for the methods that train on
    them beside pairs.

    None shows an evaluation image, by its bytes or nearly. Their controls use the same pictures.
    """


@asset_text
def retrieved_set() -> None:
    """REACT's first idea: the pairs of the corpus that matter for this domain, found from its class
    names alone.

    Every class name in every prompt is a query against captions (T2T) and images (T2I). Duplicates
    and evaluation images are dropped, classes are capped, and the pairs are collected into training
    shards. Look at the contact sheet: if these images are wrong, nothing after them can be right.
    """


@asset_text
def control_set() -> None:
    """As many pairs as were retrieved, drawn at random from the same corpus.

    The control of the experiment: a gain that training on these gives too does not come from
    retrieval.
    """


@stage_asset
def customized_checkpoint(context: Context, project: ProjectResource) -> dg.MaterializeResult:
    """REACT's second idea: the base model with new gated blocks, trained on the retrieved pairs;
    its own weights stay, except for the logit scale.

    Each new block starts with a closed gate, so that training begins exactly at the base model (a
    check asserts it). `gated-image` is the headline; `locked-text`, `locked-image` and `full` train
    the weights themselves, `lora-image` sums of low rank; `gda`, `ncm` and `linear-head` fit a
    classifier to what the frozen base sees; `<method>-control` trains the same way on the control
    set. While it runs, its losses are in MLflow; with `processes` above 1 it runs under torchrun.

    There is a partition for every domain and each of the trained `methods` of pipeline.yaml.
    """
    return publish(context, project, partial(customize_here, context))


@asset_text
def domain_results() -> None:
    """Zero-shot accuracy of one method on the domain's labelled images, after ELEVATER's protocol.

    An image gets the class whose prompts are nearest to it; labels are only used for counting.
    `base` is measured the same way with no training. Without labelled images the result is
    `unavailable`, with the reason.

    There is a partition for every domain and each of the `methods` of pipeline.yaml.
    """


@asset_text
def comparison() -> None:
    """Every method of the domain compared with the base and its control, with 95% intervals.

    A gain over the base counts only as far as the control, the same training on random pairs, does
    not share it. The artifact holds the tables, per class too, and `dashboard.html`: one page with
    figures, costs, classes that gained or lost, losses, and some of the retrieved pairs. It works
    offline.
    """
