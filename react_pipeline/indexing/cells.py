"""Training the centroids of an index's cells on a GPU: with torch, or with FAISS' GPU build. On a
CPU FAISS trains them itself.

`index.train_on: faiss-gpu` trains with a GPU build of FAISS. That build has the same files as
faiss-cpu, so it is installed in a folder of its own, which only a second process imports: without
code for the card it aborts its process, and no `except` catches that. Shapes: N rows, C cells, D
width.
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from react_pipeline.embedding import Vectors
from react_pipeline.store import InputError

FAISS_GPU = Path(sys.prefix, "faiss-gpu")
ROUNDS = 10
"""Of k-means, as in FAISS."""
_PRODUCTS = 1 << 26
"""Products at a time: 256 MB."""


def train_centroids(rows: Vectors, cells: int, device: str) -> Vectors:
    """Return unit centroids (C, D) of random rows (N, D), by spherical k-means.

    Args:
        device: Of torch, or `faiss-gpu`.

    Raises:
        InputError: If the GPU build of FAISS is not installed, or does not work on this GPU.
    """
    if device == "faiss-gpu":
        return _train_apart(rows, cells)
    import torch
    from torch.nn.functional import normalize

    sample = torch.from_numpy(rows)
    centroids = normalize(sample[:: len(sample) // cells][:cells])
    for _ in range(ROUNDS):
        there = centroids.T.to(device)
        parts = sample.split(max(_PRODUCTS // cells, 1))
        nearest = torch.cat([(part.to(device) @ there).argmax(1).cpu() for part in parts])
        # The small share of the old centroid moves no cell that has rows, and keeps an empty one.
        centroids = normalize((1e-6 * centroids).index_add_(0, nearest, sample))
    return centroids.numpy()


def _train_apart(rows: Vectors, cells: int) -> Vectors:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_train_with_faiss, FAISS_GPU, rows, cells).result()
        except Exception as error:  # whatever that build raises, or the end of its process
            raise InputError(
                f"index.train_on: FAISS in {FAISS_GPU} does not train on this machine's GPU "
                f"({error}); install a build for the card there, or remove the field"
            ) from error


def _train_with_faiss(folder: Path, rows: Vectors, cells: int) -> Vectors:
    sys.path.insert(0, str(folder))
    import faiss

    if not faiss.get_num_gpus():
        raise RuntimeError(f"{faiss.__file__} has no GPU")
    kmeans = faiss.Kmeans(rows.shape[1], cells, niter=ROUNDS, spherical=True, gpu=True)
    kmeans.train(rows)
    return kmeans.centroids
