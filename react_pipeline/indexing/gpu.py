"""Training and filling indices; of those of cells, the k-means and the cell of each row may be found on a GPU.

Belongs here: everything that calls FAISS on a GPU. Does not belong here: searching all queries there, which is done by
PyTorch (`indexing.batch`). Shapes: N rows, D width.

A GPU holds nothing but the centroids, 4 D bytes a cell, and a chunk of rows. Codes are made and kept in main memory, so
an index may be larger than the card, and codes are the same as without a GPU. Not run on a GPU yet.
"""

import logging
from typing import Any

from react_pipeline.embedding import Vectors
from react_pipeline.indexing.files import inverted_lists, rotated
from react_pipeline.indexing.vectors import StoredVectors

logger = logging.getLogger(__name__)


def exact_on_gpu(width: int, metric: int, device: str, centroids: Vectors | None = None) -> Any | None:
    """An exact index on the GPU, of these centroids if any; None where FAISS has no GPU, or it has no room for them."""
    import faiss

    if device == "cpu" or faiss.get_num_gpus() == 0:
        return None
    flat = faiss.IndexFlat(width, metric)
    if centroids is not None:
        flat.add(centroids)
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)
    except RuntimeError as error:
        logger.warning("the index is built without the GPU: %s", str(error).splitlines()[0])
        return None


def train(index: Any, sample: Vectors, device: str) -> None:
    """Train an index with rows (N, D), the centroids of its cells on a GPU where there is one."""
    import faiss

    if (lists := inverted_lists(index)) is None:
        index.train(sample)
        return
    # As FAISS does it without a GPU: a graph over the cells is trained with distances.
    graph = hasattr(faiss.downcast_index(lists.quantizer), "hnsw")
    metric = faiss.METRIC_L2 if graph else lists.quantizer.metric_type
    assigner = exact_on_gpu(lists.d, metric, device)
    if assigner is not None:
        lists.clustering_index = assigner
    index.train(sample)
    # FAISS keeps a bare pointer to it.
    lists.clustering_index = None


def add_rows(index: Any, stored: StoredVectors, first_row: int, device: str) -> None:
    """Add all rows from one on to a trained index in main memory; on a GPU their cells are found there."""
    import faiss

    lists, cells = inverted_lists(index), None
    if lists is not None and device != "cpu":
        centroids = lists.quantizer.reconstruct_n(0, lists.nlist)
        cells = exact_on_gpu(lists.d, lists.quantizer.metric_type, device, centroids)
    for _, vectors in stored.chunks(first_row):
        if lists is None or cells is None:
            index.add(vectors)
            continue
        vectors = rotated(index, vectors)
        _, found = cells.search(vectors, 1)
        lists.add_core(len(vectors), faiss.swig_ptr(vectors), None, faiss.swig_ptr(found))
        index.ntotal = lists.ntotal
