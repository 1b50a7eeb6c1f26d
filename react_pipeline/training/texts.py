"""The texts of a training: which text a pair is shown with at a step, and its vector, computed once if it may be.

Does not belong here: the images (`training.data`). Shapes: B pairs of a batch, U different texts, C classes, P prompts
of a class, L token ids of a text, D embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from react_pipeline.clip import Clip, encode_text, fill, prompt_templates, recompute_activations, text_lengths
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.training.data import TrainingPairs
from react_pipeline.training.distributed import World
from react_pipeline.training.schedule import generator

GATHERED_AT_ONCE = 65_536
"""Vectors that a process sends at once."""


@dataclass(frozen=True)
class DrawnTexts:
    """The texts of one batch.

    Attributes:
        texts: Positions (B,) in the table of different texts.
        captions: Ids (B,): equal where the texts are equal, or are prompts of one class.
        classes: Ids (B,) of the classes; -1 where a pair has none.
    """

    texts: Tensor
    captions: Tensor
    classes: Tensor


class TrainingTexts:
    """The table of all different captions and prompts: vectors (U, D) if frozen, token ids (U, L) if they train."""

    def __init__(
        self,
        clip: Clip,
        pairs: TrainingPairs,
        domain: DomainConfig,
        training: TrainingConfig,
        world: World,
        trains: bool,
    ) -> None:
        """Encode or tokenise every text once; about 2 KiB a text with D = 512.

        Args:
            clip: The model, with its base weights still.
            domain: Gives classes and templates of the prompts.
            training: Its `class_prompt_fraction`, `seed` and `activation_checkpointing` count.
        """
        self._clip = clip
        self._training = training
        self._device = world.device
        names = domain.class_names
        known = {name: number for number, name in enumerate(names)}
        self._classes = torch.tensor([known.get(name, -1) for name in pairs.classes], dtype=torch.long)
        prompts = [fill(template, name) for name in names for template in prompt_templates(domain)]
        if not training.class_prompt_fraction:
            prompts = []
        captions = list(pairs.captions)
        different = sorted({*captions, *prompts})
        position = {text: number for number, text in enumerate(different)}
        self._captions = torch.tensor([position[caption] for caption in captions], dtype=torch.long)
        self._prompts = torch.tensor([position[prompt] for prompt in prompts], dtype=torch.long).view(len(names), -1)
        self._tokens = self._tokenised(different) if trains else None
        if trains and training.activation_checkpointing:
            recompute_activations(clip.model)
        self._vectors = None if trains else _encoded(clip, different, world)

    def draw(self, step: int, positions: Tensor) -> DrawnTexts:
        """The texts of the pairs at `positions` (B,) at one step; a function of the step alone."""
        texts = captions = self._captions[positions]
        classes = self._classes[positions]
        if self._training.class_prompt_fraction:
            rng = generator(self._training.seed, 3, step)
            replaced = torch.rand(texts.shape, generator=rng) < self._training.class_prompt_fraction
            replaced &= classes >= 0
            chosen = torch.randint(self._prompts.shape[1], texts.shape, generator=rng)
            texts = torch.where(replaced, self._prompts[classes, chosen], texts)
            captions = torch.where(replaced, -1 - classes, captions)
        return DrawnTexts(texts, captions, classes)

    def caption_ids(self, positions: Tensor) -> Tensor:
        """Positions (B,) in the table of the pairs' own captions."""
        return self._captions[positions]

    def vectors(self, texts: Tensor) -> Tensor:
        """Unit vectors (B, D), float32, on the device; with a graph if the text tower trains and gradients are on."""
        if self._vectors is not None:
            return self._vectors[texts].to(self._device, non_blocking=True)
        assert self._tokens is not None  # noqa: S101 - one of the two is there
        # Of equal texts one is encoded, and of each no more than its vector depends on: in both directions the rest
        # would be computed for nothing.
        different, place = torch.unique(texts, return_inverse=True)
        tokens = self._tokens[different]
        longest = int(text_lengths(self._clip.model, tokens).max())
        again = self._training.activation_checkpointing
        encoded = encode_text(self._clip.model, tokens[:, :longest].to(self._device), activation_checkpointing=again)
        return functional.normalize(encoded.float(), dim=-1)[place.to(self._device)]

    def _tokenised(self, texts: list[str]) -> Tensor:
        parts = [self._clip.tokenizer(texts[start : start + 1024]) for start in range(0, len(texts), 1024)]
        return torch.cat(parts)


def _encoded(clip: Clip, texts: list[str], world: World) -> Tensor:
    """Unit vectors (U, D); every process encodes a part."""
    each = -(-len(texts) // world.size)
    mine = texts[world.rank * each : (world.rank + 1) * each]
    vectors = torch.zeros(each, clip.dimension)
    if mine:
        vectors[: len(mine)] = clip.encode_texts(mine)
    # Gathered where the collectives work (NCCL knows no CPU tensors), and in parts: the table may be larger than a GPU.
    parts = [
        world.gather(part.to(world.device)).cpu().view(world.size, len(part), -1)
        for part in vectors.split(GATHERED_AT_ONCE)
    ]
    return torch.cat(parts, dim=1).flatten(0, 1)[: len(texts)]
