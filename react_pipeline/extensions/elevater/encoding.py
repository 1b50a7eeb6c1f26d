"""Encoding images of the benchmark: bytes in, features as an array on disk out, for any list of
images.

Does not belong here: which images, what is published (`features`).
Shapes: N images of H x W pixels, B of them in a batch, D width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from react_pipeline.clip import Clip, arithmetic
from react_pipeline.corpus import BadImage, Decoder, load_batches, progress
from react_pipeline.labelled import preprocessing
from react_pipeline.settings import PipelineConfig
from react_pipeline.store import CorruptArtifact, InputError, ReactError
from react_pipeline.training import explained_out_of_memory

from .images import LabelledImages, Read


@dataclass(frozen=True)
class PreparedImages:
    """Images by their numbers, as a model takes them.

    Attributes:
        locations: What errors call each image.
        max_pixels: Larger images are refused.
    """

    read: Read
    locations: Sequence[str]
    preprocess: Callable[[Image.Image], Tensor]
    max_pixels: int


def prepared_images(config: PipelineConfig, clip: Clip, images: LabelledImages) -> PreparedImages:
    """Return the images of a data set as a model takes them in the benchmark."""
    preprocess = preprocessing(clip, squash=images.entry.squash)
    return PreparedImages(images.read, images.locations, preprocess, config.corpus.max_pixels)


def encode(
    config: PipelineConfig, clip: Clip, images: PreparedImages, path: Path, title: str = "images"
) -> None:
    """Write the features of images as the image tower gives them, not normalised: float32 (N, D),
    `.npy`.

    In float32 on any device; one batch is in memory at a time.

    Args:
        config: For the batch size and workers of `embedding`.

    Raises:
        InputError: If an image cannot be used, or kills the process that decodes it.
        CorruptArtifact: If a feature is not finite.
    """
    count, size = len(images.locations), config.embedding.batch_size
    array = np.lib.format.open_memmap(path, "w+", np.float32, (count, clip.dimension))
    batches = [range(count)[first : first + size] for first in range(0, count, size)]
    # A process for less than a batch would only cost its start.
    loaded = load_images(images, batches, min(config.embedding.worker_count, count // size))
    loaded = progress(loaded, title, "batch", len(batches))
    full = f"with embedding.batch_size {size}"
    for rows, pixels in zip(batches, loaded, strict=True):
        with explained_out_of_memory(full, "lower it"), arithmetic(), torch.inference_mode():
            batch = clip.model.encode_image(pixels.to(clip.device)).float().cpu().numpy()
        if not np.isfinite(batch).all():
            raise CorruptArtifact(
                f"{images.locations[rows[0]]}: the model gives features that are not finite; "
                "rematerialize its checkpoint"
            )
        array[rows.start : rows.stop] = batch
    array.flush()


def load_images(
    images: PreparedImages, batches: Iterable[Sequence[int]], workers: int
) -> Iterator[Tensor]:
    """Yield the images of each batch of numbers, (B, 3, H, W), read ahead by `workers` processes.

    Raises:
        InputError: If one is gone, or cannot be decoded.
    """
    decoder = Decoder(images.read, images.preprocess, images.max_pixels, is_lenient=True)
    for numbers, loaded in load_batches(decoder, batches, workers):
        for number, result in zip(numbers, loaded, strict=True):
            if isinstance(result, BadImage):
                raise InputError(
                    f"{images.locations[number]}: no usable image ({result}); fix or replace the "
                    "file"
                ) from result
            if isinstance(result, ReactError):
                raise result
        yield torch.from_numpy(np.stack(loaded))
