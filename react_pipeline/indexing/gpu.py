"""Building indices of cells with FAISS' GPU package: the k-means of their centroids, and finding the cell of each row.

Belongs here: everything that calls FAISS on a GPU. Does not belong here: searching all queries there, which is done by
PyTorch (`indexing.batch`), other keys, which gain nothing. Shapes: N rows, D width.

A GPU holds nothing but the centroids, 4 D bytes a cell, and a chunk of rows. Codes are made and kept in main memory, so
an index may be larger than the card, nothing must be copied back, and codes are the same as without a GPU. Products are
in single precision. Not run on a GPU yet.
"""

import logging
from typing import Any

from react_pipeline.embedding import Vectors
from react_pipeline.indexing.files import inverted_lists, rotated

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


class Adder:
    """Adds rows to a trained index; on a GPU it finds their cells."""

    def __init__(self, index: Any, device: str) -> None:
        """Take the index, in main memory."""
        self._index, self._lists, self._cells = index, inverted_lists(index), None
        if self._lists is not None:
            quantizer = self._lists.quantizer
            if device != "cpu":
                centroids = quantizer.reconstruct_n(0, self._lists.nlist)
                self._cells = exact_on_gpu(self._lists.d, quantizer.metric_type, device, centroids)

    def add(self, vectors: Vectors) -> None:
        """Add rows (N, D)."""
        import faiss

        if self._cells is None or self._lists is None:
            self._index.add(vectors)
            return
        vectors = rotated(self._index, vectors)
        _, cells = self._cells.search(vectors, 1)
        self._lists.add_core(len(vectors), faiss.swig_ptr(vectors), None, faiss.swig_ptr(cells))
        self._index.ntotal = self._lists.ntotal
