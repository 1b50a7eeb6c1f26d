"""All vectors of an artifact at once, which only tests have the memory for."""

from __future__ import annotations

import numpy as np

from react_pipeline.embedding import Vectors
from react_pipeline.embedding.vectors import Side, row_vectors
from react_pipeline.store.artifacts import Artifact


def read_vectors(artifact: Artifact, side: Side) -> Vectors:
    """(N, D) float32; row n belongs to row n of `read_metadata`."""
    return row_vectors(artifact, side, np.arange(artifact.counts["rows"]))
