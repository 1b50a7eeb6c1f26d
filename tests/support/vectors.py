"""All vectors of an artifact at once, which only tests have the memory for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from react_pipeline.embedding import FOLDERS, Side, StoredVectors, Vectors
from react_pipeline.store.artifacts import Artifact


def read_vectors(artifact: Artifact, side: Side) -> Vectors:
    """(N, D) float32; row n belongs to row n of `read_metadata`."""
    return StoredVectors(artifact, side).take(np.arange(artifact.counts["rows"]))


def vector_files(artifact: Artifact, side: Side) -> list[Path]:
    """The files of one side in the order of rows."""
    return sorted((artifact.path / FOLDERS[side]).glob("*.npy"))
