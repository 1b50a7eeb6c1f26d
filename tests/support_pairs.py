"""Pairs in memory, in the form in which trainings read them, for cases that no retrieval would give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from support_drawings import draw

from react_pipeline.clip.model import Clip
from react_pipeline.training.head_samples import PairVectors


class DrawnPairs:
    """Drawings with captions and classes of the test's choice; stands for `training_data.TrainingPairs`."""

    def __init__(
        self,
        drawings: Sequence[tuple[str, str]],
        *,
        captions: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._drawings = list(drawings)
        self.captions = list(captions or (f"a drawing of a {colour} {shape}" for shape, colour in drawings))
        self.classes = list(classes or (shape for shape, _ in drawings))

    def __len__(self) -> int:
        return len(self._drawings)

    def decoded(self, position: int) -> Image.Image:
        return draw(*self._drawings[position], seed=position)

    def vectors(self, clip: Clip) -> PairVectors:
        """What a corpus of them would hold of each."""
        images = torch.stack([clip.preprocess(self.decoded(position)) for position in range(len(self))])
        return PairVectors(clip.encode_images(images), clip.encode_texts(self.captions))
