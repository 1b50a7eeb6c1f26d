"""Signs: what names and pairs say of a domain before anything is trained, and `gda` tried on
held-out pairs.

Does not belong here: printing (`commands`). Shapes: N pairs, C classes, D embedding dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch

from react_pipeline.clip import ClassHead, Clip
from react_pipeline.corpus import CollectedPairs
from react_pipeline.extensions.methods import HeadMethod, HeadSamples, PairVectors, label_pairs
from react_pipeline.extensions.names import domain_names, unnamed_classes
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.retrieval import load_encoder
from react_pipeline.settings import METHODS, TrainingConfig
from react_pipeline.stage import CONTROL_SET, CORPUS_EMBEDDINGS, RETRIEVED_SET, encoder_in
from react_pipeline.store import Artifact


class Tried(NamedTuple):
    """Accuracy of `gda` on pairs that it was not fitted to, as a fraction: of the zero-shot head,
    of one fitted to retrieved pairs, and of one fitted to random pairs.
    """

    base: float
    own: float
    control: float


class Signs(NamedTuple):
    """Facts about a domain before a training.

    Attributes:
        tried: `gda` on held-out pairs.
        classes: One row a class: class, pairs, named (by a caption).
        samples: The kept pairs as a head is fitted to them, in the order of the corpus.
    """

    tried: Tried
    classes: pd.DataFrame
    samples: HeadSamples


def read_signs(project: Project, slug: str) -> Signs:
    """Try `gda` on the retrieved pairs of a domain and on its control.

    Raises:
        MissingArtifact, StaleArtifact: If one of them has to be materialized first.
    """
    retrieved = fresh(project, RETRIEVED_SET, slug)
    clip = load_encoder(project, fresh(project, encoder_in(retrieved.parents)))
    samples = _samples(project, slug, clip, retrieved)
    random = _samples(project, slug, clip, fresh(project, CONTROL_SET, slug))
    return Signs(_tried(samples, random), _classes(project, slug, retrieved), samples)


def _samples(project: Project, slug: str, clip: Clip, artifact: Artifact) -> HeadSamples:
    """Return the pairs of a set as a head is fitted to them."""
    pairs = CollectedPairs(artifact)
    return label_pairs(clip, pairs, PairVectors.read(pairs), project.domain(slug))


def _classes(project: Project, slug: str, retrieved: Artifact) -> pd.DataFrame:
    unnamed = unnamed_classes(domain_names(project, slug), fresh(project, CORPUS_EMBEDDINGS))
    classes = pd.DataFrame({"class": project.domain(slug).class_names})
    sizes = pd.read_parquet(retrieved.file("pairs.parquet"), columns=["class"])["class"]
    classes["pairs"] = classes["class"].map(sizes.value_counts()).fillna(0).astype(int)
    # Without captions no class is named.
    classes["named"] = False if unnamed is None else ~classes["class"].isin(unnamed)
    return classes


def _tried(samples: HeadSamples, random: HeadSamples) -> Tried:
    """Try `gda` on each half of the pairs, fitted to the other half, or to half of the random
    ones.
    """
    ids = pd.Series(samples.class_ids.numpy())
    first = torch.from_numpy((ids.groupby(ids).cumcount() % 2 == 0).to_numpy())

    def accuracy(heads: list[ClassHead]) -> float:
        right = []
        for head, half in zip(heads, (first, ~first), strict=True):
            best = head.scores(samples.images[half]).argmax(dim=1)
            right.append((best == samples.class_ids[half]).double().mean().nan_to_num())
        return float(sum(right) / 2)

    zero_shot = ClassHead(samples.zero_shot)
    of_random = _fit(random.at(slice(max(len(random.images) // 2, 1))))
    own = [_fit(samples.at(half)) for half in (~first, first)]
    return Tried(accuracy([zero_shot] * 2), accuracy(own), accuracy([of_random] * 2))


def _fit(samples: HeadSamples) -> ClassHead:
    method = METHODS["gda"]
    assert isinstance(method, HeadMethod)  # noqa: S101 - as its name says
    head, _ = method.fit(samples, TrainingConfig(), None)  # type: ignore[arg-type]  # takes no step
    return head
