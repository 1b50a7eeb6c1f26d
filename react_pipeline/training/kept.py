"""What a training computes once of every caption and every image, in files that all its processes
map.

A kept file survives a kill; a part of one is computed again. Does not belong here: the frozen
blocks (`data`). Shapes: B pairs of a batch or rows of a part, N pairs, T tokens, W width,
U captions, L token ids of a text, D embedding dimension.
"""

import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from react_pipeline.clip import (
    Clip,
    encode_text,
    text_lengths,
    trains_text,
)
from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import CPU_IMAGES, LONG_RUN, convert
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Scratch
from react_pipeline.training.customization import Customization, World
from react_pipeline.training.data import ImageEncoder, Views

MakeRows = Callable[[Iterator[Tensor]], Generator[Tensor, None, None]]
"""Maps parts (B,) of row numbers to their rows, on any device."""

TEXT_VECTORS, TEXT_TOKENS, TOKENS = "texts.vectors", "texts.tokens", "tokens"
"""Files of the scratch: unit vectors in float16 where another encoder retrieves, or token ids where
the text tower trains; and what is frozen of the images.
"""

TEXTS_AT_ONCE, IMAGES_AT_ONCE = 65_536, 64
"""Rows that are made before they are written: texts by all processes together, images by each."""

MAX_DISK_FRACTION = 0.5
"""The share of the free disk that tokens may take; beyond it they are computed at every step."""


class TrainingTexts:
    """The captions of the pairs: unit vectors where the text tower is frozen, else token ids."""

    def __init__(self, clip: Clip, customization: Customization) -> None:
        """Take the vectors that are stored with the pairs. Where another encoder retrieves, or the
        text tower trains, encode or tokenise every caption once, into a file: 1 KiB a caption with
        D = 512.

        Args:
            clip: The model, with its base weights still.
        """
        c, captions = customization, customization.pairs.captions
        self._clip = clip
        self._trains = trains = trains_text(clip.model)
        self._device = c.world.device
        self._class_ids = pair_classes(c.pairs, c.domain)
        self._caption_ids: NDArray[Any] = c.pairs.caption_ids
        if not trains and not c.project.config.two_encoders:
            # Each caption takes the vector of its first pair.
            _, first, place = np.unique(self._caption_ids, return_index=True, return_inverse=True)
            self._caption_ids = first[place]
            self._rows = torch.from_numpy(c.pairs.vectors("text"))
            return

        def make(parts: Iterator[Tensor]) -> Generator[Tensor, None, None]:
            for part in parts:
                texts = captions.take(part.numpy()).to_pylist()
                yield clip.tokenize(texts) if trains else clip.encode_texts(texts)

        dtype = torch.int32 if trains else torch.float16
        name = TEXT_TOKENS if trains else TEXT_VECTORS
        width = clip.tokenize([""]).shape[1] if trains else clip.dimension
        shape = (len(captions), width)
        self._rows = kept_rows(c.scratch, name, shape, make, dtype, c.world, TEXTS_AT_ONCE)

    def caption_ids(self, positions: Tensor) -> Tensor:
        """Return which caption each pair at `positions` (B,) has: equal ids are equal texts, and
        mean nothing else.
        """
        return torch.from_numpy(self._caption_ids[positions.numpy()]).long()

    def class_ids(self, positions: Tensor) -> Tensor:
        """Return the class (B,) for which each pair was retrieved; -1 where it has none."""
        return self._class_ids[positions].long()

    def longest(self, positions: Tensor, count: int) -> Tensor:
        """Return `count` of the positions (B,): if the text tower trains those of the longest
        captions, to which a batch is filled up.
        """
        captions, first = np.unique(self.caption_ids(positions).numpy(), return_index=True)
        if not self._trains or len(first) < count:
            return positions[:count]
        lengths = text_lengths(self._clip.model, self._rows[torch.from_numpy(captions)].long())
        return positions[first[lengths.argsort(descending=True)[:count]]]

    def vectors(self, captions: Tensor) -> Tensor:
        """Return unit vectors (B, D) of captions, by their ids (B,): float32, on the device; with a
        graph if the text tower trains and gradients are on.
        """
        if not self._trains:
            vectors = self._rows[captions].to(self._device, non_blocking=True)
            return functional.normalize(vectors.float(), dim=-1)
        # Of equal texts one is encoded, and of each no more than its vector depends on: in both
        # directions the rest would be computed for nothing.
        different, place = torch.unique(captions, return_inverse=True)
        tokens = self._rows[different].long()
        longest = int(text_lengths(self._clip.model, tokens).max())
        encoded = encode_text(self._clip.model, tokens[:, :longest].to(self._device))
        return functional.normalize(encoded.float(), dim=-1)[place]


def pair_classes(pairs: CollectedPairs, domain: DomainConfig) -> Tensor:
    """Return the class (N,) for which each pair was retrieved, int32; -1 where it has none of the
    domain's.
    """
    numbers = {name: number for number, name in enumerate(domain.class_names)}
    of_names = np.array([numbers.get(name, -1) for name in pairs.classes], np.int32)
    return torch.from_numpy(of_names[pairs.class_ids])


def keep_tokens(encoder: ImageEncoder, views: Views, scratch: Scratch) -> Tensor | None:
    """Compute once what is frozen of every image, tokens (N, T, W) or vectors (N, D); return None
    where it changes, or does not fit the disk.

    Args:
        scratch: The same folder in all processes.
    """
    training, tower, world = encoder.training, encoder.tower, encoder.world
    splits = tower is None or tower.splits
    if not (splits and training.keep_prefix and views.augment is None and world.one_machine):
        return None
    count = len(views.pairs)
    bf16 = tower is not None and training.precision == "bf16"
    # Layers are fused for many images of towers whose blocks we do not run ourselves.
    fuses = tower is not None and not tower.native and training.precision != "fp16"
    fuses = fuses and world.device == "cpu" and count >= LONG_RUN

    autocast = torch.autocast(world.device_type, torch.bfloat16, enabled=bf16)

    def make(parts: Iterator[Tensor]) -> Generator[Tensor, None, None]:
        run: Callable[[Tensor], Tensor] = encoder.frozen
        if fuses:
            images = views.batch(torch.arange(min(count, CPU_IMAGES)))
            probes = [images, images[:1]]
            run = convert(run, encoder.model.visual, probes, "bf16" if bf16 else "fp32")
        for images in views.batches(parts, training.worker_count, world.device):
            with autocast:
                rows = run(images)
            yield rows

    with autocast:
        one = encoder.frozen(views.batch(torch.tensor([0])).to(world.device))
    shape = (count, *one.shape[1:])
    dtype = torch.bfloat16 if bf16 else torch.float32
    free_bytes = MAX_DISK_FRACTION * shutil.disk_usage(scratch.folder).free
    fits = math.prod(shape) * dtype.itemsize <= free_bytes
    # The writer decides for all: the disk changes while the others look.
    if not world.broadcast(fits or _path(scratch, TOKENS, shape, dtype).exists()):
        return None
    return kept_rows(scratch, TOKENS, shape, make, dtype, world, IMAGES_AT_ONCE * world.size)


def kept_rows(
    scratch: Scratch,
    name: str,
    shape: tuple[int, ...],
    make: MakeRows,
    dtype: torch.dtype,
    world: World,
    at_once: int,
) -> Tensor:
    """Return rows of this shape, mapped from a file of the scratch.

    Args:
        scratch: The same folder in all processes; the first dimension of `shape` counts its rows.
        name: Of the rows; that of the file names shape and type, too.
        make: Each process makes the rows of some parts.
        dtype: Of the file.
        at_once: Rows that all processes together make before they are written.
    """
    path = _path(scratch, name, shape, dtype)
    is_kept = world.broadcast(path.exists())

    def write(path: Path) -> None:
        parts = torch.arange(shape[0]).split(at_once)
        made = make(part[world.share(len(part))] for part in parts)
        with (
            path.open("wb") as file,
            tqdm(total=shape[0], desc=name, disable=None if world.is_writer else True) as bar,
            closing(made),
        ):
            for part, rows in zip(parts, made, strict=True):
                as_bytes = rows.to(dtype).contiguous().view(torch.uint8)  # for any backend
                file.write(world.joined(as_bytes, len(part)).numpy().tobytes())
                bar.update(len(part))

    if not is_kept:
        scratch.keep(path.name, write) if world.is_writer else write(Path(os.devnull))
    world.broadcast(None)  # the others map what the writer has written
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)


def _path(scratch: Scratch, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Path:
    return scratch.folder / "-".join([name, *map(str, shape), str(dtype).removeprefix("torch.")])
