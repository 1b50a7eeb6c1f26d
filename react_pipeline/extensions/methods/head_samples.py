"""What heads are fitted to: pairs and class prompts as labelled vectors.

Shapes: N pairs, C classes, D embedding dimension, P prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as functional
from torch import Tensor
from tqdm import tqdm

from react_pipeline.clip import Clip, class_prompts, domain_head, prompt_vectors
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import Encoder
from react_pipeline.settings import DomainConfig, EmbeddingConfig
from react_pipeline.training import Views, pair_classes

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
            vectors = torch.from_numpy(pairs.vectors(name)).float()
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
class HeadSamples:
    """What a head learns from, all of it unit vectors as the base encodes it.

    Attributes:
        zero_shot: The zero-shot head (D, C).
        images: Of the pairs (N, D).
        captions: Of the pairs (N, D).
        class_ids: Of the pairs (N,), -1 where one has none of the domain's.
        prompts: Every template with every name and synonym (P, D).
        prompt_ids: Class of each prompt (P,).
    """

    zero_shot: Tensor
    images: Tensor
    captions: Tensor
    class_ids: Tensor
    prompts: Tensor
    prompt_ids: Tensor

    def at(self, positions: Tensor | slice) -> Self:
        """Return the pairs at some positions, or where a mask is true, with all prompts."""
        pairs = {
            name: getattr(self, name)[positions] for name in ("images", "captions", "class_ids")
        }
        return replace(self, **pairs)


def label_pairs(
    clip: Clip, pairs: CollectedPairs, vectors: PairVectors, domain: DomainConfig
) -> HeadSamples:
    """Encode the classes and their prompts, and find the class of each pair.

    Pairs of a retrieved set have the class they were retrieved for. Those of a control have none:
    each gets the class whose prompt is nearest to its caption.
    """
    prompts = class_prompts(domain)
    of_prompts = prompt_vectors(clip, prompts["prompt"].tolist())
    prompt_ids = torch.tensor(prompts["class_id"].to_numpy(), dtype=torch.long)
    if any(pairs.classes):
        class_ids = pair_classes(pairs, domain).long()
    else:
        class_ids = nearest_class(vectors.captions, of_prompts, prompt_ids)
    zero_shot = domain_head(clip, domain).contiguous()
    return HeadSamples(
        zero_shot, vectors.images, vectors.captions, class_ids, of_prompts, prompt_ids
    )


def nearest_class(captions: Tensor, prompts: Tensor, prompt_ids: Tensor) -> Tensor:
    """Class id (N,) of the prompt (P, D) that is nearest to each caption (N, D); of equally near
    ones the first.
    """
    parts = [(part @ prompts.T).argmax(dim=1) for part in captions.split(CAPTIONS_AT_ONCE)]
    return prompt_ids[torch.cat(parts)]
