"""Ready FAISS indices over ready embeddings: taken over as they are, after a test.

They are in the folder `corpus.indices`, `image.index` and `text.index`, as clip-retrieval writes
them. The files are linked, not copied: published indices of large corpora are hundreds of GB. The
manifest holds their digests, so one that is changed or taken away later is refused like any damaged
artifact.
"""

import time
from pathlib import Path
from typing import Any

import faiss

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
from react_pipeline.store import Artifact, CorruptArtifact, InputError, Scratch, remembered_sha256

COARSE_RERANK = 8
"""How many times as many hits are ranked again for codes that do not hold whole vectors."""
_HOLDING_VECTORS = faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat


def adopt_index(project: Project, indices: Path) -> Artifact:
    """Publish the artifact `faiss_index` with links to the ready indices of a folder, and counts as
    of `build_index`.

    Raises:
        InputError: If an index is not there, cannot be read, is not of inner products, has other
            rows or another dimension than the embeddings, or finds less than `min_recall`.
    """
    paths = {side: indices / f"{side}.index" for side in SIDES}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        raise InputError(
            f"corpus.indices: no file {', '.join(missing)}; remove the field to have indices built"
        )
    content = {path.name: remembered_sha256(project.store.root, path) for path in paths.values()}
    inputs = resolve(project, "faiss_index", content=content)
    embeddings = inputs.parents["corpus_embeddings"]
    config = project.config.index

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        queries = draw_queries(embeddings, 2 * config.recall_queries)
        sides = {}
        for side, path in paths.items():
            started = time.perf_counter()
            stored = StoredVectors(embeddings, side)
            index = _checked(path, stored)
            # Behind a rotation the vectors may have lost dimensions.
            is_whole = isinstance(faiss.downcast_index(index), _HOLDING_VECTORS)
            rerank = 1 if is_whole else COARSE_RERANK
            measured = tune_and_measure(index, config, stored, queries, rerank)
            if (found := measured["recall_at_10"]) < config.min_recall:
                raise InputError(
                    f"{path}: finds {found:.1%} of the 10 nearest rows that an exact "
                    f"search finds, and index.min_recall is {config.min_recall}. Either its rows "
                    "are not in the order of the embeddings, or it is too coarse; remove "
                    "corpus.indices to have an index built"
                )
            (staging / path.name).symlink_to(path.resolve())
            seconds = time.perf_counter() - started
            sides[side] = {**measured, "key": _described(index), "seconds": seconds}
        reason = f"taken over from {indices}"
        return index_counts(embeddings, config, sides, reason, queries, staging)

    return project.store.build(inputs, write)


def _checked(path: Path, stored: StoredVectors) -> Any:
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
    inner = innermost(index)
    if isinstance(inner, faiss.IndexFlat):
        return "Flat"
    lists = inverted_lists(index)
    cells = "" if lists is None else f" of {lists.nlist} cells"
    return f"ready {type(inner).__name__.removeprefix('Index')}{cells}"
