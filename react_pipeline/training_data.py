"""The pairs of a training, ready for batches: captions in memory, images read from the collected shards when needed.

Belongs here: reading, decoding and augmenting images, and the frozen-prefix tokens that are computed once. Does not
belong here: collecting the shards (`collect`), the loop (`customize`).
Shapes: B images of a batch, T tokens, W width, V views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from tqdm import tqdm

from react_pipeline.artifacts import Artifact
from react_pipeline.collect import read_pairs
from react_pipeline.gated import FrozenPrefix
from react_pipeline.images import decode_image

MAX_TOKEN_BYTES = 2 << 30
"""Tokens of the frozen prefix are kept in memory up to this size; beyond it they are computed at every step."""

PREFIX_BATCH = 64

MAX_PIXELS = 1 << 30
"""The configured cap was applied when the pair was embedded; this one only guards memory."""


class TrainingPairs:
    """Pairs of a retrieved or control set, in the order of their shards.

    Attributes:
        captions: Caption of each pair.
        classes: Class that each pair was retrieved for; empty strings in a control set.
    """

    def __init__(self, artifact: Artifact, preprocess: Callable[[Image.Image], Tensor], seed: int) -> None:
        """Read captions and encoded images; images are decoded when asked for."""
        self._preprocess = preprocess
        self._seed = seed
        self._images: list[bytes] = []
        self.captions: list[str] = []
        self.classes: list[str] = []
        for _row, image, caption, name in read_pairs(artifact):
            self._images.append(image)
            self.captions.append(caption)
            self.classes.append(name)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._images)

    def image(self, position: int, view: int) -> Tensor:
        """One preprocessed image (3, H, W); view 0 is the image as it is, the others are fixed augmentations of it."""
        image = decode_image(self._images[position], MAX_PIXELS)
        if view:
            image = augment(image, np.random.default_rng([self._seed, position, view]))
        return self._preprocess(image)

    def batches(self, wanted: Sequence[Sequence[tuple[int, int]]], threads: int = 2) -> Iterator[Tensor]:
        """Decode batches of (position, view) to images (B, 3, H, W), one batch ahead of its use."""
        with ThreadPoolExecutor(threads) as pool:
            ahead = [pool.map(lambda pair: self.image(*pair), batch) for batch in wanted[:1]]
            for following in [*wanted[1:], ()]:
                ahead.append(pool.map(lambda pair: self.image(*pair), following))
                yield torch.stack(list(ahead.pop(0)))


def augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Flip, rotate, scale, shift and recolour an image a little, on a white ground; the same `rng` gives the same."""
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle, scale = math.radians(rng.uniform(-15, 15)), 1 / rng.uniform(0.75, 1.1)
    shift = rng.uniform(-0.08, 0.08, size=2) * image.size
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    centre_x, centre_y = image.width / 2, image.height / 2
    matrix = (
        cosine,
        sine,
        centre_x - cosine * (centre_x + shift[0]) - sine * (centre_y + shift[1]),
        -sine,
        cosine,
        centre_y + sine * (centre_x + shift[0]) - cosine * (centre_y + shift[1]),
    )
    white = (255, 255, 255)
    image = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=white)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(rng.uniform(0.7, 1.3))
    return image


def prefix_tokens(pairs: TrainingPairs, prefix: FrozenPrefix, views: int, device: str) -> Tensor | None:
    """Tokens (N, V, T, W) of every view of every pair, on the CPU; None where they would not fit in memory."""
    views = max(1, views)
    probe = prefix.tokens(pairs.image(0, 0)[None].to(device))
    if probe.numel() * probe.element_size() * len(pairs) * views > MAX_TOKEN_BYTES:
        return None
    kept = torch.empty(len(pairs) * views, *probe.shape[1:], dtype=probe.dtype)
    wanted = [(position, view) for position in range(len(pairs)) for view in range(views)]
    batches = [wanted[start : start + PREFIX_BATCH] for start in range(0, len(wanted), PREFIX_BATCH)]
    for number, images in enumerate(tqdm(pairs.batches(batches), "frozen part", len(batches), disable=None)):
        start = number * PREFIX_BATCH
        kept[start : start + len(images)] = prefix.tokens(images.to(device)).cpu()
    return kept.view(len(pairs), views, *probe.shape[1:])
