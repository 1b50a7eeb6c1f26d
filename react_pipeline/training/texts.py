"""The texts of a training: which text a pair is shown with at a step, and its vector, computed once
if it may be.

Shapes: B pairs of a batch, U texts, C classes, P prompts of a class, L token ids of a text, D
embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from react_pipeline.clip import (
    Clip,
    encode_text,
    fill,
    prompt_templates,
    recompute_activations,
    text_lengths,
    trains_text,
)
from react_pipeline.corpus import CollectedPairs
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Scratch, TrainingError
from react_pipeline.training.kept_rows import kept_rows
from react_pipeline.training.schedule import generator
from react_pipeline.training.world import World

VECTORS, TOKENS = "texts.vectors", "texts.tokens"
"""Files of the scratch: unit vectors in float16, or token ids where the text tower trains."""

AT_ONCE = 65_536
"""Texts that all processes together encode before they are written."""


@dataclass(frozen=True)
class DrawnTexts:
    """The texts of one batch.

    Attributes:
        texts: Positions (B,) in the table of texts.
        captions: Ids (B,): equal where the texts are equal, or are prompts of one class.
        classes: Ids (B,) of the classes; -1 where a pair has none.
    """

    texts: Tensor
    captions: Tensor
    classes: Tensor


class TrainingTexts:
    """The different captions, then all prompts, as vectors (U, D) if frozen, as token ids (U, L) if
    they train.
    """

    def __init__(
        self,
        clip: Clip,
        pairs: CollectedPairs,
        domain: DomainConfig,
        training: TrainingConfig,
        world: World,
        scratch: Scratch,
    ) -> None:
        """Encode or tokenise every text once, into a file: 1 KiB a text with D = 512.

        Args:
            clip: The model, with its base weights still.
            scratch: The same folder in all processes.

        Raises:
            TrainingError: If the disk has no room for the file.
        """
        self._clip = clip
        self._training = training
        self._trains = trains = trains_text(clip.model)
        self._device = world.device
        names = domain.prompt_names
        class_numbers = {name: number for number, name in enumerate(domain.class_names)}
        self._caption_ids = pairs.caption_ids
        self._class_ids = pairs.class_ids
        self._classes = torch.tensor(
            [class_numbers.get(name, -1) for name in pairs.classes], dtype=torch.long
        )
        templates = prompt_templates(domain) if training.class_prompt_fraction else []
        prompts = [fill(template, name) for name in names for template in templates]
        captions = len(pairs.captions)
        self._prompts = torch.arange(captions, captions + len(prompts)).view(len(names), -1)
        if trains and training.activation_checkpointing:
            recompute_activations(clip.model)

        def text_at(position: int) -> Any:
            if position < captions:
                return pairs.captions[position].as_py()
            return prompts[position - captions]

        def make(parts: Iterator[Tensor]) -> Generator[Tensor, None, None]:
            for part in parts:
                texts = [text_at(position) for position in part.tolist()]
                yield clip.tokenize(texts) if trains else clip.encode_texts(texts)

        dtype = torch.int32 if trains else torch.float16
        name = TOKENS if trains else VECTORS
        shape = (
            captions + len(prompts),
            clip.tokenize([""]).shape[1] if trains else clip.dimension,
        )
        rows = kept_rows(scratch, name, shape, make, dtype, world, AT_ONCE)
        if rows is None:
            raise TrainingError(
                f"the texts of the training need {math.prod(shape) * dtype.itemsize:,} bytes, more "
                f"than {scratch.folder} has free; free them, or put the store on a larger disk"
            )
        self._rows = rows

    def draw(self, step: int, positions: Tensor) -> DrawnTexts:
        """Return the texts of the pairs at `positions` (B,) at one step; a function of the step
        alone.
        """
        texts = captions = self.caption_ids(positions)
        classes = self._classes[_taken(self._class_ids, positions)]
        if self._training.class_prompt_fraction:
            rng = generator(self._training.seed, 3, step)
            replaced = torch.rand(texts.shape, generator=rng) < self._training.class_prompt_fraction
            replaced &= classes >= 0
            chosen = torch.randint(self._prompts.shape[1], texts.shape, generator=rng)
            texts = torch.where(replaced, self._prompts[classes, chosen], texts)
            captions = torch.where(replaced, -1 - classes, captions)
        return DrawnTexts(texts, captions, classes)

    def caption_ids(self, positions: Tensor) -> Tensor:
        """Return positions (B,) in the table of the pairs' own captions."""
        return _taken(self._caption_ids, positions)

    def vectors(self, texts: Tensor) -> Tensor:
        """Return unit vectors (B, D), float32, on the device; with a graph if the text tower trains
        and gradients are on.
        """
        if not self._trains:
            vectors = self._rows[texts].to(self._device, non_blocking=True)
            return functional.normalize(vectors.float(), dim=-1)
        # Of equal texts one is encoded, and of each no more than its vector depends on: in both
        # directions the rest would be computed for nothing.
        different, place = torch.unique(texts, return_inverse=True)
        tokens = self._rows[different].long()
        longest = int(text_lengths(self._clip.model, tokens).max())
        encoded = encode_text(self._clip.model, tokens[:, :longest].to(self._device))
        return functional.normalize(encoded.float(), dim=-1)[place]


def _taken(mapped: NDArray[Any], positions: Tensor) -> Tensor:
    """Return rows (B, ...) of a mapped array as int64."""
    return torch.from_numpy(mapped[positions.numpy()]).long()
