"""Samples of a linear head: pairs and class prompts as labelled vectors, drawn so that every class
counts the same.

Shapes: N pairs or samples, B samples of a batch, C classes, D embedding dimension, P prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor
from tqdm import tqdm

from react_pipeline.clip import Clip, class_prompts, prompt_vectors
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import Encoder
from react_pipeline.settings import DomainConfig, EmbeddingConfig
from react_pipeline.training import Views

if TYPE_CHECKING:
    from react_pipeline.training import Customization

CAPTIONS_AT_ONCE = 256
"""Captions set against all prompts at once; with 100,000 prompts that is 100 MB."""


@dataclass(frozen=True)
class PairVectors:
    """What the base makes of the pairs: unit vectors (N, D) of images and of captions."""

    images: Tensor
    captions: Tensor

    @classmethod
    def of(cls, customization: Customization, clip: Clip) -> Self:
        """Of the pairs to train on; they are encoded only where another encoder retrieves."""
        c = customization
        if c.project.config.two_encoders:
            return cls.encode(c.pairs, clip, c.project.config.embedding)
        return cls.read(c.pairs)

    @classmethod
    def read(cls, pairs: CollectedPairs) -> Self:
        """Those that the pairs come with, which the same base encoded, in the precision of
        `embedding`.
        """

        def side(name: str) -> Tensor:
            vectors = torch.from_numpy(pairs.vectors(name))
            return functional.normalize(vectors, dim=1)  # they are stored as float16

        return cls(side("image"), side("text"))

    @classmethod
    def encode(cls, pairs: CollectedPairs, clip: Clip, embedding: EmbeddingConfig) -> Self:
        """Encode the pairs with the base, where another encoder retrieves."""
        encoder = Encoder(clip, embedding.precision, rows=len(pairs))
        parts = torch.arange(len(pairs)).split(embedding.batch_size)
        views = Views(pairs, encoder.to_tensor)
        batches = views.batches(parts, embedding.worker_count, clip.device)
        images = torch.cat(
            [*map(encoder.images, tqdm(batches, "pairs", len(parts), disable=None, leave=False))]
        )
        captions = clip.encode_texts(pairs.captions.to_pylist())
        return cls(images, captions[torch.tensor(pairs.caption_ids, dtype=torch.long)])


@dataclass(frozen=True)
class Labels:
    """The class of each pair and of each prompt.

    Attributes:
        class_ids: Of each pair (N,), -1 where it has none of the domain's.
        prompts: Unit vectors (P, D) of every template with every name and synonym.
        prompt_ids: Class of each prompt (P,).
    """

    class_ids: Tensor
    prompts: Tensor
    prompt_ids: Tensor


def label_pairs(
    clip: Clip, pairs: CollectedPairs, captions: Tensor, domain: DomainConfig
) -> Labels:
    """Encode class prompts, and find the class of each pair, whose caption has a vector (N, D).

    Pairs of a retrieved set have the class they were retrieved for. Those of a control have none:
    each gets the class whose prompt is nearest to its caption.
    """
    prompts = class_prompts(domain)
    of_prompts = prompt_vectors(clip, prompts["prompt"].tolist())
    prompt_ids = torch.tensor(prompts["class_id"].to_numpy(), dtype=torch.long)
    if any(pairs.classes):
        class_numbers = {name: number for number, name in enumerate(domain.class_names)}
        of_classes = np.array([class_numbers.get(name, -1) for name in pairs.classes])
        class_ids = torch.from_numpy(of_classes[pairs.class_ids])
    else:
        class_ids = nearest_class(captions, of_prompts, prompt_ids)
    return Labels(class_ids, of_prompts, prompt_ids)


def nearest_class(captions: Tensor, prompts: Tensor, prompt_ids: Tensor) -> Tensor:
    """Class id (N,) of the prompt (P, D) that is nearest to each caption (N, D); of equally near
    ones the first.
    """
    parts = [(part @ prompts.T).argmax(dim=1) for part in captions.split(CAPTIONS_AT_ONCE)]
    return prompt_ids[torch.cat(parts)]


class ClassSamples:
    """Labelled vectors from which every class is drawn equally often, however many each has.

    Attributes:
        counts: Samples of each class (C,).
    """

    def __init__(self, vectors: Tensor, class_ids: Tensor, n_classes: int) -> None:
        """Group vectors (N, D) by their class ids (N,)."""
        self._vectors = vectors[torch.argsort(class_ids, stable=True)]
        self.counts = torch.bincount(class_ids, minlength=n_classes)
        self._starts = self.counts.cumsum(0) - self.counts
        self._present = self.counts.nonzero().squeeze(1)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw a class, then one of its samples, `count` times; returns vectors (B, D) and class
        ids (B,).
        """
        class_ids = self._present[torch.randint(len(self._present), (count,), generator=rng)]
        # In double precision the product stays below the count, so that no draw falls into the next
        # class.
        within = torch.rand(count, generator=rng, dtype=torch.float64) * self.counts[class_ids]
        return self._vectors[self._starts[class_ids] + within.long()], class_ids
