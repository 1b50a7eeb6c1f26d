"""Ready FAISS indices over ready embeddings: taken over as they are, after a test.

They are in the folder `corpus.indices`, `image.index` and `text.index`, as clip-retrieval writes
them. The files are linked, not copied: published indices of large corpora are hundreds of GB. The
manifest holds their digests, so one that is changed or taken away later is refused like any damaged
artifact.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from react_pipeline.embedding import StoredVectors
from react_pipeline.indexing.build import Measured, Queries, tune_and_measure
from react_pipeline.indexing.search import SIDES, innermost, inverted_lists, read_index
from react_pipeline.settings import IndexConfig
from react_pipeline.store import CorruptArtifact, InputError, remembered_sha256

COARSE_RERANK = 8
"""How many times as many hits are ranked again for codes that do not hold whole vectors."""


def ready_digests(store: Path, indices: Path) -> dict[str, str]:
    """Return the SHA-256 of the indices in a folder, by file name; an InputError if one is not
    there.
    """
    paths = [indices / f"{side}.index" for side in SIDES]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise InputError(
            f"corpus.indices: no file {', '.join(missing)}; remove the field to have indices built"
        )
    return {path.name: remembered_sha256(store, path) for path in paths}


def link_side(
    config: IndexConfig, indices: Path, stored: StoredVectors, queries: Queries, folder: Path
) -> Measured:
    """Link the ready index of one side into a folder, and return what the counts record of it.

    Raises:
        InputError: If it cannot be read, is not of inner products, has other rows or another
            dimension than the vectors, or finds less than `min_recall`.
    """
    import faiss

    started = time.perf_counter()
    path = indices / f"{stored.side}.index"
    index = _read(path, stored)
    # Behind a rotation the vectors may have lost dimensions.
    holding_vectors = faiss.IndexFlat | faiss.IndexIVFFlat | faiss.IndexHNSWFlat
    is_whole = isinstance(faiss.downcast_index(index), holding_vectors)
    measured = tune_and_measure(index, config, stored, queries, 1 if is_whole else COARSE_RERANK)
    if (found := measured["recall_at_10"]) < config.min_recall:
        raise InputError(
            f"{path}: finds {found:.1%} of the 10 nearest rows that an exact search finds, and "
            f"index.min_recall is {config.min_recall}. Either its rows are not in the order of "
            "the embeddings, or it is too coarse; remove corpus.indices to have an index built"
        )
    (folder / path.name).symlink_to(path.resolve())
    return {**measured, "key": _described(index), "seconds": time.perf_counter() - started}


def _read(path: Path, stored: StoredVectors) -> Any:
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
    name = type(innermost(index)).__name__.removeprefix("Index")
    if name.startswith("Flat"):
        return "Flat"
    lists = inverted_lists(index)
    return f"ready {name}" + (f" of {lists.nlist} cells" if lists is not None else "")
