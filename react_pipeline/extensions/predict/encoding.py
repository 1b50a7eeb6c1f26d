"""Encoding many pictures: decoded in workers, encoded in batches, kept part by part, so that a
killed run can resume.

Belongs here: the loader, the parts on disk. Does not belong here: which pictures (`pictures`), what
is made of their vectors (`predict`). Shapes: N pictures, D embedding dimension.

Parts and batches are cut by the position of a picture alone, so that a run that was interrupted
computes the same batches, and gives the same digits, as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from react_pipeline.clip import Clip, Pixels
from react_pipeline.corpus import BadImage, Decoder, load_batches, progress
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.predict.pictures import LedgerRow, Picture
from react_pipeline.extensions.predict.run_folder import Options
from react_pipeline.store import ReactError, Scratch

PART_PICTURES = 4_096
"""Pictures of one part, which is what a kill costs at most."""
CPU_BATCH, GPU_BATCH = 64, 256


@dataclass(frozen=True)
class Part:
    """Encoded pictures.

    Attributes:
        names: Names of the N usable pictures.
        vectors: Their unit vectors (N, D).
        ledger: What cannot be used.
    """

    names: list[str]
    vectors: NDArray[np.float32]
    ledger: list[LedgerRow]

    @classmethod
    def joined(cls, some: Iterable[Part]) -> Part:
        """Return several as one."""
        parts = list(some)
        names = [name for part in parts for name in part.names]
        ledger = [row for part in parts for row in part.ledger]
        return cls(names, np.concatenate([part.vectors for part in parts]), ledger)

    @classmethod
    def read(cls, path: Path) -> Part:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as kept:
            ledger = [(name, reason, detail) for name, reason, detail in kept["ledger"].tolist()]
            return cls(kept["names"].tolist(), kept["vectors"], ledger)

    def write(self, path: Path) -> None:
        """Write a file (.npz)."""
        ledger = np.array(self.ledger, dtype=str).reshape(-1, 3)
        np.savez(path, names=np.array(self.names, str), vectors=self.vectors, ledger=ledger)


def encode_pictures(
    clip: Clip,
    pictures: Sequence[Picture],
    folder: Path | None,
    precision: str,
    options: Options,
    preprocess: Any = None,
    batch_size: int = 0,
) -> Iterator[Part]:
    """Yield the encoded pictures in their order, part by part; of no pictures one part.

    Args:
        pictures: All of them; the same ones whenever this is called with this folder.
        folder: Keeps each part for another call.
        precision: As `embedding.precision`.
        options: Their `workers` (0: this process decodes), `max_pixels` and `is_lenient`.
        preprocess: One of open_clip's, instead of the model's own.
        batch_size: Pictures encoded at once; 0: as many as suit the device.

    Raises:
        ReactError: If a vector is not finite, or a shard cannot be read.
    """
    encoder = Encoder(clip, precision, rows=len(pictures))
    to_tensor = Pixels(preprocess) if preprocess else encoder.to_tensor
    decoder = Decoder(methodcaller("read"), to_tensor, options.max_pixels, options.is_lenient)
    size = batch_size or (CPU_BATCH if clip.device == "cpu" else GPU_BATCH)

    def encode(some: Sequence[Picture]) -> Part:
        batches = [some[start : start + size] for start in range(0, len(some), size)] or [some]
        loaded = load_batches(decoder, batches, min(options.workers, len(batches)))
        return Part.joined(_encode(encoder, *batch) for batch in loaded)

    def write(some: Sequence[Picture], path: Path) -> None:
        encode(some).write(path)

    starts = range(0, max(len(pictures), 1), PART_PICTURES)
    for start in progress(starts, "encoding pictures", "part", len(starts)):
        some = pictures[start : start + PART_PICTURES]
        if folder is None:
            yield encode(some)
        else:
            name = f"{start:012d}.npz"
            yield Part.read(Scratch(folder).keep(name, partial(write, some)))


def _encode(encoder: Encoder, pictures: Sequence[Picture], loaded: list[Any]) -> Part:
    """Encode a batch, or raise what a worker met."""
    names, images, ledger = [], [], []
    for picture, result in zip(pictures, loaded, strict=True):
        if isinstance(result, ReactError):
            raise result
        if isinstance(result, BadImage):
            ledger.append((picture.name, result.reason, result.detail))
        else:
            names.append(picture.name)
            images.append(result)
    vectors = np.zeros((0, encoder.clip.dimension), np.float32)
    if images:
        vectors = encoder.images(torch.from_numpy(np.stack(images))).numpy()
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise ReactError(
            f"{names[int(broken.argmax())]}: the model gives values that are not finite; use "
            "precision fp32"
        )
    return Part(names, vectors, ledger)
