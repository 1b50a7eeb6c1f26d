"""Images of the benchmark as a model sees them: all of them as vectors, or batches to train on.

Does not belong here: which images, what is published (`features`).
Shapes: N images of H x W pixels, B of them in a batch, D width.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import methodcaller
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from react_pipeline.clip import EVALUATION_PRECISION, Clip
from react_pipeline.corpus import Decoder, load_batches
from react_pipeline.extensions.predict import Options, Part, Picture, encode_pictures
from react_pipeline.labelled import list_problems, preprocessing
from react_pipeline.settings import PipelineConfig
from react_pipeline.store import InputError

from .images import LabelledImages


def encode(
    config: PipelineConfig,
    clip: Clip,
    pictures: Sequence[Picture],
    folder: Path | None = None,
    *,
    squash: bool = False,
) -> NDArray[np.float32]:
    """Return unit vectors (N, D) of images. Truncated files are used as far as they decode.

    Args:
        config: For batch size and workers of `embedding`, and `corpus.max_pixels`.
        folder: Keeps what is encoded for another call, after a kill.
        squash: Images are resized to a square without a crop.

    Raises:
        InputError: Naming the images that cannot be used.
        ReactError: If a vector is not finite.
    """
    workers, max_pixels = config.embedding.worker_count, config.corpus.max_pixels
    options = Options(workers=workers, max_pixels=max_pixels, is_lenient=True)
    preprocess = preprocessing(clip, squash=squash)
    precision, size = EVALUATION_PRECISION, config.embedding.batch_size
    encoded = Part.joined(
        encode_pictures(clip, pictures, folder, precision, options, preprocess, size)
    )
    if encoded.ledger:
        problems = [f"{name}: no usable image ({why} {more})" for name, why, more in encoded.ledger]
        raise InputError(
            f"{len(problems)} of {len(pictures):,} images cannot be used; fix or replace these "
            f"files\n{list_problems(problems)}"
        )
    return encoded.vectors


def load_images(
    config: PipelineConfig, clip: Clip, images: LabelledImages, batches: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Yield the images of each batch of numbers, (B, 3, H, W), read ahead by processes.

    Raises:
        InputError: If one is gone, or cannot be decoded.
    """
    preprocess = preprocessing(clip, squash=images.entry.squash)
    max_pixels, workers = config.corpus.max_pixels, config.embedding.worker_count
    decoder = Decoder(methodcaller("read"), preprocess, max_pixels, is_lenient=True)
    batches_of_pictures = (
        [images.pictures[number] for number in batch.tolist()] for batch in batches
    )
    for pictures, loaded in load_batches(decoder, batches_of_pictures, workers):
        for picture, pixels in zip(pictures, loaded, strict=True):
            if isinstance(pixels, Exception):
                raise InputError(
                    f"{picture.name}: no usable image ({pixels}); fix or replace the file"
                )
        yield torch.from_numpy(np.stack(loaded))
