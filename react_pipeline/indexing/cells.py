"""The cells of an index: training their centroids, and finding the cell of each row.

Both are products and a maximum, so torch computes them on a GPU. On a CPU FAISS does it all.
Shapes: N rows, C cells, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.embedding import Rows, Vectors

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS, MOST_ROWS_PER_CELL = 10, 256
"""Rounds of k-means, and rows that it uses, as FAISS has them."""
_PRODUCTS = 1 << 26
"""Products at a time: 256 MB."""
_SEED = 1


def train_centroids(rows: Vectors, cells: int, device: str) -> Vectors:
    """Return unit centroids (C, D) of rows (N, D), by spherical k-means in torch."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(_SEED)
    chosen = torch.randperm(len(rows), generator=generator)[: MOST_ROWS_PER_CELL * cells]
    sample = torch.from_numpy(rows)[chosen]
    centroids = functional.normalize(sample[:cells].to(device), dim=1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centroids)
        for part in sample.split(_rows_at_once(cells)):
            there = part.to(device)
            sums.index_add_(0, (there @ centroids.T).argmax(dim=1), there)
        empty = (sums == 0).all(dim=1)
        # Rows of large cells are the most likely to start a new one.
        again = torch.randint(len(sample), (int(empty.sum()),), generator=generator)
        sums[empty] = sample[again].to(device)
        centroids = functional.normalize(sums, dim=1)
    return centroids.cpu().numpy()


def nearest_cells(rows: Vectors, centroids: Tensor) -> Rows:
    """Return the cell (N,) of each row (N, D), on the device of the unit centroids (C, D)."""
    import torch

    parts = torch.from_numpy(rows).split(_rows_at_once(len(centroids)))
    nearest = [(part.to(centroids.device) @ centroids.T).argmax(dim=1).cpu() for part in parts]
    return torch.cat(nearest).numpy()


def _rows_at_once(cells: int) -> int:
    return max(_PRODUCTS // cells, 1)
