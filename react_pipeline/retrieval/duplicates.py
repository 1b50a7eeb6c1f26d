"""Duplicates: which corpus rows repeat an image, and which show an evaluation image.

Belongs here: exact duplicates by hash, and the images of one evaluation set by hash and by embedding. Does not belong
here: which sets are kept out (`decontamination`), images that are like each other (`near_duplicates`), which rows a
domain wants (`retrieve`). Shapes: N rows, M evaluation images, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.labelled import encode_images, read_images
from react_pipeline.project import Project
from react_pipeline.retrieval.row_values import values_of_rows
from react_pipeline.settings import DistributorConfig
from react_pipeline.store import Artifact

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

_CHUNK_ROWS = 8_192


@dataclass(frozen=True)
class EvaluationImages:
    """What a domain is evaluated on, as far as it must be kept out of training.

    Attributes:
        vectors: Unit vectors by the base model, float32 (M, D).
        near: Cosine from which a corpus image counts as one of these.
    """

    sha256: frozenset[str]
    vectors: NDArray[np.float32]
    near: float

    @classmethod
    def load(cls, project: Project, slug: str, evaluation_set: Artifact, clip: Clip) -> EvaluationImages:
        """Read and encode a published evaluation set as the corpus was: by the base model, with its own preprocessing.

        Where the evaluation prepares its images otherwise (`kitti-distance`), a copy in the corpus would not be near.
        """
        return cls.of_table(project, slug, read_images(evaluation_set, project.domain(slug)), clip)

    @classmethod
    def of_table(cls, project: Project, slug: str, images: pd.DataFrame, clip: Clip) -> EvaluationImages:
        """As `load`, of images listed by `labelled.read_images`; `slug` selects `near_duplicate_similarity`."""
        vectors = encode_images(project.config, clip, images)
        return cls(frozenset(images["sha256"]), vectors, project.retrieval(slug).near_duplicate_similarity)

    def similarity(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine of each of (N, D) unit vectors with the nearest evaluation image, (N,); NaN if there are none."""
        if not len(self.vectors):
            return np.full(len(vectors), np.nan, np.float32)
        from react_pipeline.indexing import nearest

        parts = [vectors[start : start + _CHUNK_ROWS] for start in range(0, len(vectors), _CHUNK_ROWS)]
        found = [nearest(part, self.vectors, 1)[0][:, 0] for part in parts]
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def similarity_of_rows(
        self, embeddings: Artifact, rows: NDArray[np.int64], distributor: DistributorConfig | None = None
    ) -> NDArray[np.float32]:
        """As `similarity`, (N,), of the images of corpus rows; their vectors are read in parts."""
        if not len(self.vectors):
            return np.full(len(rows), np.nan, np.float32)
        return values_of_rows(embeddings, rows, lambda vectors, _: self.similarity(vectors), None, distributor)

    def joined(self, other: EvaluationImages) -> EvaluationImages:
        """The images of both."""
        vectors = np.concatenate([self.vectors, other.vectors])
        return EvaluationImages(self.sha256 | other.sha256, vectors, self.near)

    def holds(self, sha256: pd.Series) -> pd.Series:
        """Whether each digest is an evaluation image's."""
        return sha256.isin(self.sha256)


def repeats(sha256: pd.Series) -> pd.Series:
    """Whether each digest occurred in an earlier row: sort the better rows first."""
    return sha256.duplicated(keep="first")
