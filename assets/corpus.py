"""The assets that belong to no domain: the corpus, the base model, the corpus' vectors and their index."""

import dagster as dg

from react_pipeline.assets.declared import stage_asset
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import ProjectParam, TrackingParam


@stage_asset
def corpus(context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam) -> dg.MaterializeResult:
    """The image-text pairs that everything is retrieved from.

    REACT needs no labels of its own: whatever it teaches the model about your classes it finds in a large collection of
    images with captions, here as webdataset shards (tar files). This asset is the inventory of the shards: each one's
    size and SHA-256, so that a changed shard is noticed by all that follows.
    """
    return publish(context, project, tracking)


@stage_asset
def base_checkpoint(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The CLIP to customize: the encoder of the corpus, the start of every training, and what results are held against.

    Kept as safetensors with its own open_clip configuration (activation and normalisation included), so that it loads
    the same way everywhere.
    """
    return publish(context, project, tracking)


@stage_asset
def corpus_embeddings(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """A unit vector for every image and every caption of the corpus, in clip-retrieval's layout.

    Both come from the same CLIP, so texts and images share one space where a dot product is a similarity. Each row
    knows the shard and the byte range of its image; every skipped sample is in a ledger with the reason.
    """
    return publish(context, project, tracking)


@stage_asset
def faiss_index(
    context: dg.AssetExecutionContext, project: ProjectParam, tracking: TrackingParam
) -> dg.MaterializeResult:
    """The search index over the image vectors and over the caption vectors.

    Small corpora are searched exactly, large ones approximately; recall@10 against exact search is measured either way.
    """
    return publish(context, project, tracking)
