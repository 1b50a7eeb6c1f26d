"""Ready FAISS indices over ready embeddings: taken over as they are, after a test.

They are in the folder `corpus.indices`, `image.index` and `text.index`, as clip-retrieval writes
them. The files are linked, not copied: published indices of large corpora are hundreds of GB. The
manifest holds their digests, so one that is changed or taken away later is refused like any damaged
artifact.
"""

import time
from pathlib import Path
from typing import Any

from react_pipeline.indexing import (
    SIDES,
    StoredVectors,
    draw_queries,
    index_counts,
    innermost,
    inverted_lists,
    read_index,
    tune_and_measure,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import IndexConfig
from react_pipeline.store import Artifact, CorruptArtifact, InputError, Scratch, remembered_sha256

COARSE_RERANK = 8
"""How many times as many hits are ranked again for codes that do not hold whole vectors."""


def adopt_index(project: Project, indices: Path) -> Artifact:
    """Publish the artifact `faiss_index` from the folder of ready indices.

    Raises:
        InputError: If one does not belong to the embeddings, or finds too little.
    """
    inputs = resolve(project, "faiss_index", content=identify(project.store.root, indices))
    embeddings = inputs.parents["corpus_embeddings"]

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        return take_over(project.config.index, indices, embeddings, staging)

    return project.store.build(inputs, write)


def identify(root: Path, indices: Path) -> dict[str, str]:
    """SHA-256 of each ready index: the content of the artifact's inputs.

    Args:
        root: The store, which remembers digests by path, size and time.

    Raises:
        InputError: If one is not there.
    """
    paths = {f"{side}.index": indices / f"{side}.index" for side in SIDES}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise InputError(
            f"corpus.indices: no file {', '.join(missing)}; remove the field to have indices built"
        )
    return {name: remembered_sha256(root, path) for name, path in paths.items()}


def take_over(
    config: IndexConfig, indices: Path, embeddings: Artifact, staging: Path
) -> dict[str, Any]:
    """Link both indices into the artifact and return the counts, as `build_index` does.

    Raises:
        InputError: If an index cannot be read, is not of inner products, has other rows or another
            dimension than the embeddings, or finds less than `min_recall`.
    """
    queries = draw_queries(embeddings, 2 * config.recall_queries)
    sides = {}
    for side in SIDES:
        started = time.perf_counter()
        path = indices / f"{side}.index"
        stored = StoredVectors(embeddings, side)
        index = _checked(path, stored)
        rerank = 1 if _holds_vectors(index) else COARSE_RERANK
        measured = tune_and_measure(index, config, stored, queries, rerank)
        if (found := measured["recall_at_10"]) < config.min_recall:
            raise InputError(
                f"{path}: finds {found:.1%} of the 10 nearest rows that an exact "
                f"search finds, and index.min_recall is {config.min_recall}. Either its rows are "
                "not in the order of the embeddings, or it is too coarse; remove corpus.indices "
                "to have an index built"
            )
        (staging / path.name).symlink_to(path.resolve())
        seconds = time.perf_counter() - started
        sides[side] = {**measured, "key": _described(index), "seconds": seconds}
    return index_counts(embeddings, config, sides, f"taken over from {indices}", queries, staging)


def _checked(path: Path, stored: StoredVectors) -> Any:
    import faiss

    try:
        index = read_index(path)
    except CorruptArtifact as error:
        raise InputError(
            f"{path}: FAISS cannot read it; fetch it again or remove corpus.indices ({error})"
        ) from error
    if (index.ntotal, index.d) != (stored.rows, stored.dimension):
        raise InputError(
            f"{path}: {index.ntotal:,} rows of {index.d} dimensions, but the embeddings have "
            f"{stored.rows:,} of {stored.dimension}; use the indices that belong to "
            "corpus.embeddings, or remove corpus.indices"
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InputError(
            f"{path}: it measures another distance than the inner product, so its hits have no "
            "cosine; build it with metric `ip`, or remove corpus.indices"
        )
    return index


def _described(index: Any) -> str:
    import faiss

    if isinstance(innermost(index), faiss.IndexFlat):
        return "Flat"
    lists = inverted_lists(index)
    inner = type(innermost(index)).__name__.removeprefix("Index")
    return f"ready {inner}" if lists is None else f"ready {inner} of {lists.nlist} cells"


def _holds_vectors(index: Any) -> bool:
    import faiss

    # Behind a rotation the vectors may have lost dimensions.
    return isinstance(
        faiss.downcast_index(index), faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat
    )
