"""Pairs under review: the pairs of a retrieved set, the least sure of each class first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import Vectors
from react_pipeline.project import Project


@dataclass(frozen=True)
class ReviewedPair:
    """One pair, as the page shows it; `row` is that of the corpus, and `position` its place in the
    training shards.
    """

    image: str
    url: str
    caption: str
    label: str
    row: int
    position: int


class ReviewedSet:
    """The pairs of a domain's current retrieved set, class by class, least sure first."""

    def __init__(self, project: Project, slug: str) -> None:
        """Read the set.

        Raises:
            MissingArtifact: If it was never built.
        """
        self.project = project
        self.slug = slug
        artifact = project.store.current("retrieved_set", slug)
        self._collected = CollectedPairs(artifact)
        table = pd.read_parquet(artifact.file("pairs.parquet"))
        names = project.domain(slug).class_names
        table = table[table["class"].isin(names)]
        table["class_id"] = pd.Series(range(len(names)), index=names)[table["class"]].to_numpy()
        place = pd.Series(range(len(self._collected)), self._collected.rows)[table["row"]]
        images, captions = (self._collected.vectors(side)[place] for side in ("image", "text"))
        table["sureness"] = sureness(images, captions, table["class_id"].to_numpy())
        table = table.sort_values(["class_id", "sureness"], kind="stable")
        positions = {row: number for number, row in enumerate(self._collected.rows.tolist())}
        urls = table["url"].fillna("") if "url" in table else pd.Series("", table.index)
        self.pairs = [
            ReviewedPair(
                row.image_sha256, url, row.caption, row["class"], row.row, positions[row.row]
            )
            for (_, row), url in zip(table.iterrows(), urls, strict=True)
        ]
        self.labels = list(dict.fromkeys(pair.label for pair in self.pairs))

    def read(self, number: int) -> bytes:
        """The image's file."""
        return self._collected.encoded(self.pairs[number].position)


def sureness(
    images: Vectors, captions: Vectors, class_ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How sure it is that each pair (N,) shows its class, 0 to 2, by vectors (N, D).

    The sum of two ranks within the class: the cosine of image and caption, and how much nearer the
    image is to the mean image of its class than to that of any other class. The second is what
    confident learning (Northcutt et al. 2021, arXiv 1911.00068) asks of a classifier.
    """
    images, captions = _unit(images), _unit(captions)
    labels, codes = np.unique(class_ids, return_inverse=True)
    means = _unit(np.stack([images[codes == code].mean(axis=0) for code in range(len(labels))]))
    cosines = images @ means.T
    own = cosines[np.arange(len(codes)), codes]
    cosines[np.arange(len(codes)), codes] = -1.0
    margin = own - cosines.max(axis=1)
    agreement = np.einsum("nd,nd->n", images, captions)
    signals = pd.DataFrame({"agreement": agreement, "margin": margin})
    return signals.groupby(codes).rank(pct=True).sum(axis=1).to_numpy()


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    return unit
