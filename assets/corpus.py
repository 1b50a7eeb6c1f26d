"""The corpus and its vectors: assets that belong to no domain, and their checks."""

import dagster as dg
import numpy as np

from react_pipeline.assets.declared import artifact_check, stage_asset
from react_pipeline.assets.reporting import publish
from react_pipeline.assets.resources import Context
from react_pipeline.embedding import FOLDERS, StoredVectors, bad_rows, sides
from react_pipeline.project import Project
from react_pipeline.settings import PipelineConfig
from react_pipeline.stage import (
    ALL,
)
from react_pipeline.store import Artifact


@stage_asset(group_name="corpus", kinds={"webdataset"})
def corpus(context: Context) -> dg.MaterializeResult:
    """The image-text pairs that everything is retrieved from.

    REACT needs no labels: all that it teaches the model about your classes comes from a large
    collection of images with captions, such as webdataset shards (tar files). This asset is the
    inventory of its files. Of local shards it has size and SHA-256, so that all later steps
    notice a changed one.
    """
    return publish(context)


@stage_asset(group_name="corpus", kinds={"pytorch"})
def base_checkpoint(context: Context) -> dg.MaterializeResult:
    """The CLIP to customize: the encoder of the corpus, the start of every training, and what
    results are held against.

    Kept as safetensors with its own open_clip configuration (activation and normalisation
    included), so that it loads the same way everywhere.
    """
    return publish(context)


@stage_asset(group_name="corpus", kinds={"pytorch"})
def retrieval_checkpoint(context: Context) -> dg.MaterializeResult:
    """The CLIP that retrieves, where `retrieval_encoder` names another than the base: it embeds
    corpus and prompts.

    So published vectors, such as DataComp's of ViT-L/14, serve any base.
    """
    return publish(context)


@stage_asset(group_name="corpus", kinds={"torch", "numpy"})
def corpus_embeddings(context: Context) -> dg.MaterializeResult:
    """A unit vector for every caption of the corpus, and for every image unless images wait,
    in clip-retrieval's layout.

    Both come from the same CLIP, so texts and images share one space where a dot product is a
    similarity. Each row knows where its image is; every skipped sample is counted with the
    reason.
    """
    return publish(context)


@artifact_check("corpus_embeddings", blocking=True)
def vectors_are_finite_and_unit_norm(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """A NaN row is never found by FAISS and a zero row is similar to nothing, both without an
    error.
    """
    bad = {
        FOLDERS[side]: sum(
            len(bad_rows(block.astype(np.float32)))
            for _, block in StoredVectors(artifact, side).blocks()
        )
        for side in sides(artifact)
    }
    return dg.AssetCheckResult(
        passed=not any(bad.values()), metadata=bad, description=f"bad vectors: {bad}"
    )


def pool_of_index(config: PipelineConfig) -> str | None:
    """Return the pool of the index, whose centroids alone are trained on a card, if any."""
    may_have_cells = config.index.key == "auto" or "IVF" in config.index.key
    is_on_card = config.index.train_on is not None
    is_built = config.corpus.ready_indices is None
    return "gpu" if is_on_card and may_have_cells and is_built else None


@stage_asset(group_name="corpus", kinds={"faiss"}, pool=pool_of_index)
def faiss_index(context: Context) -> dg.MaterializeResult:
    """The search index over the caption vectors, and over the image vectors if there are any.

    Small corpora are searched exactly, large ones approximately; recall@10 against exact search
    is measured either way.
    """
    return publish(context)


@artifact_check("faiss_index", blocking=True)
def index_holds_every_row(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """The row numbers of the index are those of the metadata, so neither may have more."""
    indexed = artifact.counts["rows"]
    rows = project.store.current("corpus_embeddings", ALL).counts["rows"]
    return dg.AssetCheckResult(
        passed=indexed == rows,
        metadata={"indexed": indexed, "rows": rows},
        description=f"{indexed} rows indexed of {rows}",
    )


@artifact_check("faiss_index", blocking=True)
def recall_is_sufficient(project: Project, artifact: Artifact) -> dg.AssetCheckResult:
    """The index must find enough of the 10 and 100 nearest that an exact search finds."""
    counts, config = artifact.counts, project.config.index
    least = {"at_10": config.min_recall, "at_100": config.min_recall_100}
    recalls = {
        f"{side}_{depth}": (value, enough)
        for depth, enough in least.items()
        for side, value in counts[f"recall_{depth}"].items()
    }
    found = {name: value for name, (value, _) in recalls.items()}
    return dg.AssetCheckResult(
        passed=all(value >= enough for value, enough in recalls.values()),
        metadata={**found, "key": counts["key"], "reason": counts["reason"]},
        description=f"recall {found}, at least {least}; a higher `index.target_recall` or another "
        "`index.key` finds more",
    )
