"""Images that are fetched one by one, made into vectors.

Does not belong here: which rows are fetched (`retrieval`, `listed`), shards (`inference`). Shapes:
N rows, D width.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from react_pipeline.corpus import ImageSource, decode_image
from react_pipeline.embedding.encoder import Encoder
from react_pipeline.embedding.parts import bad_rows
from react_pipeline.settings import PipelineConfig
from react_pipeline.store import CorpusError


@dataclass(frozen=True)
class Fetched:
    """The images that were available.

    Attributes:
        sha256: Digest of each, by row, in the order of the corpus.
        vectors: Their unit vectors (N, D), float16: rounded as they are stored, so that what is
            decided by them is decided alike in a later build.
    """

    sha256: dict[int, str]
    vectors: NDArray[np.float16]


def encode_fetched(
    source: ImageSource, rows: pd.DataFrame, encoder: Encoder, config: PipelineConfig
) -> Fetched:
    """Fetch the images of some rows (columns `row` and those of the source) and encode them.

    Memory holds a batch of images; `source.failed` says why others are not available.

    Raises:
        CorpusError: If a vector is not finite or not of unit length.
    """
    sha256: dict[int, str] = {}

    def images() -> Iterator[bytes]:
        for pair, image in source.fetch(rows):
            sha256[int(pair.row)] = str(pair.image_sha256)
            yield image

    def tensor(image: bytes) -> Tensor:
        pixels: Tensor = encoder.to_tensor(decode_image(image, config.corpus.max_pixels))
        return pixels

    vectors = [np.empty((0, encoder.clip.dimension), np.float16)]
    fetched = images()
    with ThreadPoolExecutor(joblib.cpu_count()) as threads:
        while batch := list(islice(fetched, config.embedding.batch_size)):
            pixels = torch.stack(list(threads.map(tensor, batch)))
            encoded = encoder.images(pixels).numpy()
            if len(bad := bad_rows(encoded)):
                row = list(sha256)[len(sha256) - len(batch) + int(bad[0])]
                raise CorpusError(
                    f"row {row} of the corpus: the encoder gives no unit vector for its image; "
                    "check the checkpoint, or use `embedding.precision: fp32`"
                )
            vectors.append(encoded.astype(np.float16))
    return Fetched(sha256, np.concatenate(vectors))
