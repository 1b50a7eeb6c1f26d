"""Pairs in memory, in the form in which trainings read them, for cases that no retrieval would
give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.clip.model import Clip
from react_pipeline.extensions.methods.head_samples import PairVectors
from support.drawings import draw


class DrawnPairs:
    """Drawings with captions and classes of the test's choice; stands for
    `corpus.CollectedPairs`.
    """

    def __init__(
        self,
        drawings: Sequence[tuple[str, str]],
        *,
        captions: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._drawings = list(drawings)
        self.texts = list(
            captions or (f"a drawing of a {colour} {shape}" for shape, colour in drawings)
        )
        self.labels = list(classes or (shape for shape, _ in drawings))
        (self.captions, self.caption_ids), (names, self.class_ids) = map(
            _columns, (self.texts, self.labels)
        )
        self.classes = names.to_pylist()

    def __len__(self) -> int:
        return len(self._drawings)

    def decoded(self, position: int, *, lazy: bool = False) -> Image.Image:
        return draw(*self._drawings[position], seed=position)

    def vectors(self, clip: Clip) -> PairVectors:
        """What a corpus of them would hold of each."""
        images = torch.stack(
            [clip.preprocess(self.decoded(position)) for position in range(len(self))]
        )
        return PairVectors(clip.encode_images(images), clip.encode_texts(self.texts))


def _columns(texts: list[str]) -> tuple[pa.Array, NDArray[np.int32]]:
    column = pa.array(texts).dictionary_encode()
    return column.dictionary, column.indices.to_numpy()
