"""Signs: `gda` tried on held-out pairs, before anything is trained.

Does not belong here: printing (`commands`), what retrieval counted (`retrieval`). Shapes: N pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch

from react_pipeline.clip import ClassHead
from react_pipeline.corpus import CollectedPairs
from react_pipeline.extensions.methods import HeadMethod, HeadSamples, PairVectors, label_pairs
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.retrieval import load_encoder
from react_pipeline.settings import METHODS, TrainingConfig
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact


class Tried(NamedTuple):
    """Accuracy of `gda` on pairs that it was not fitted to, as a fraction: of the zero-shot head,
    of one fitted to retrieved pairs, and of one fitted to random pairs.
    """

    base: float
    own: float
    control: float


def try_gda(project: Project, slug: str, retrieved: Artifact, control: Artifact) -> Tried:
    """Try `gda` on each half of the retrieved pairs of a domain, fitted to the other half, or to
    half of the random ones.
    """
    clip = load_encoder(project, fresh(project, encoder_in(retrieved.parents)))

    def samples_of(artifact: Artifact) -> HeadSamples:
        pairs = CollectedPairs(artifact)
        return label_pairs(clip, pairs, PairVectors.read(pairs), project.domain(slug))

    samples, random = samples_of(retrieved), samples_of(control)
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
