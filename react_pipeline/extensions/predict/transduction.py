"""Transduction: many unlabelled pictures decide together what each of them shows.

Follows TransCLIP (Zanella et al. 2024, arXiv 2406.01837), written from the formulas of the paper.
With y the softmax of a picture's scores, l its log density under a Gaussian per class with one
diagonal covariance, W the affinity of nearest neighbours and k their number::

    z_i ~ y_i * exp(l_i / 50 + ((W' + W) z)_i / 2k)

Different here: a picture that occurs several times counts once, so that no choice among equally
near neighbours depends on the order. Belongs here: the arithmetic, on vectors. Does not belong
here: reading pictures, writing predictions (`predict`). Shapes: N pictures, C classes, D embedding
dimension.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from react_pipeline.clip import LOGIT_SCALE, ClassHead

NEIGHBOURS = 3
MOST_CONFIDENT = 8
"""Pictures of a class that its first mean is taken of."""
OUTER_STEPS, INNER_STEPS = 10, 5
DENSITY_SCALE = 50.0
MIN_VARIANCE = 1e-6
"""A unit vector with 512 dimensions has about 5e-4; where all pictures agree it is 0."""
COMPARED_AT_ONCE = 1 << 26
"""Similarities in memory at a time: 256 MB."""


def transduce(vectors: NDArray[np.float32], head: ClassHead) -> Tensor:
    """Return scores of pictures judged together.

    It takes time with the square of the number of pictures. The order of the pictures changes
    nothing.

    Args:
        vectors: Unit vectors (N, D) of one picture at least.
        head: Of the classes; its scores are where it starts.

    Returns:
        Scores (N, C), logits / 100 as `ClassHead.scores` gives them.
    """
    distinct, places = np.unique(vectors, axis=0, return_inverse=True)
    x = torch.from_numpy(distinct)
    neighbours = affinity(x)
    prior = (LOGIT_SCALE * head.scores(x)).log_softmax(dim=1)
    # A Gaussian per class: means (C, D), and one diagonal covariance (D,).
    means = x[prior.topk(min(MOST_CONFIDENT, len(x)), dim=0).indices].mean(dim=0)
    variance = torch.full((x.shape[1],), 1 / x.shape[1])
    z = prior.exp()
    logits = prior
    for _ in range(OUTER_STEPS):
        weights = means / variance
        # Up to a constant of each picture.
        densities = ClassHead(weights.T, -0.5 * (weights * means).sum(dim=1)).scores(x)
        evidence = prior + densities / DENSITY_SCALE
        for _ in range(INNER_STEPS):
            logits = evidence + neighbours @ z
            z = logits.softmax(dim=1)
        mass = z.sum(dim=0)[:, None]
        # A class without pictures keeps its mean.
        means = torch.where(mass > torch.finfo(x.dtype).eps, z.T @ x / mass, means)
        spread = (x * x).mean(dim=0) - (mass * means * means).sum(dim=0) / len(x)
        variance = spread.clamp(min=MIN_VARIANCE)
    return logits[torch.from_numpy(places).reshape(-1)] / LOGIT_SCALE


def affinity(x: Tensor) -> Tensor:
    """Return (W' + W) / 2k of unit vectors (N, D), sparse (N, N).

    W holds the cosines, where positive, of each picture with its k nearest others.
    """
    count = len(x)
    near, columns = [], []
    for rows in torch.arange(count).split(max(1, COMPARED_AT_ONCE // count)):
        cosines = x[rows] @ x.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf  # no picture is its own neighbour
        nearest = cosines.topk(min(NEIGHBOURS, count - 1), dim=1)
        near.append(nearest.values.clamp(min=0))
        columns.append(nearest.indices)
    weights = torch.cat(near) / (2 * NEIGHBOURS)
    rows = torch.arange(count)[:, None].expand_as(weights)
    places = torch.stack([rows.reshape(-1), torch.cat(columns).reshape(-1)])
    directed = torch.sparse_coo_tensor(
        places, weights.reshape(-1), (count, count), check_invariants=True
    )
    return (directed + directed.T).coalesce()
