"""Images of chosen rows, fetched from their source, decoded in other processes, and made into
vectors.

Does not belong here: which rows are chosen, where images come from (`corpus.ImageSource`). Shapes:
N rows, D width.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from react_pipeline.corpus import BadImage, Decoder, ImageSource, load_batches, progress, runs
from react_pipeline.embedding.encoder import Encoder
from react_pipeline.embedding.vectors import Vectors, bad_rows
from react_pipeline.settings import PipelineConfig
from react_pipeline.store import CorpusError

DECODED_AT_ONCE = 32
"""Images that a process decodes before it hands them over."""
IMAGES_PER_PROCESS = 256
"""A process for fewer takes longer to start than to decode them."""
READ_AHEAD = 64
"""Images that are read and wait to be decoded."""


def encode_fetched(
    source: ImageSource, rows: pd.DataFrame, encoder: Encoder, config: PipelineConfig
) -> tuple[dict[int, str], NDArray[np.float16]]:
    """Fetch the images of some rows (columns `row` and those of the source) and encode them.

    Images are read while others are encoded; memory holds some hundreds of files. `source.failed`
    says why others are not available.

    Returns:
        The SHA-256 of each image that was available, by row, in the order in which they were
        fetched; and their unit vectors (N, D), float16: rounded as they are stored, so that what is
        decided by them is decided alike in a later build.

    Raises:
        CorpusError: If a vector is not finite or not of unit length.
    """
    sha256: dict[int, str] = {}
    vectors = [np.empty((0, encoder.clip.dimension), np.float16)]
    by_row = rows.set_index("row", drop=False)
    names = by_row[next(name for name in ("image_path", "url", "row") if name in by_row)]
    decoder = Decoder(itemgetter(2), encoder.to_tensor, config.corpus.max_pixels)
    workers = min(config.embedding.worker_count, len(rows) // IMAGES_PER_PROCESS)
    # Plain tuples, which other processes can be sent.
    fetched = ((int(one.row), str(one.image_sha256), image) for one, image in source.fetch(rows))
    with closing(read_ahead(fetched)) as images:
        bar = progress(images, "encoding images", "image", len(rows))
        loaded = load_batches(decoder, map(list, runs(bar, DECODED_AT_ONCE)), workers)
        for batch in map(list, runs(_usable(loaded, source), config.embedding.batch_size)):
            pixels = np.stack([pixels for _, _, pixels in batch])
            encoded = encoder.images(torch.from_numpy(pixels)).numpy()
            digests = {row: digest for row, digest, _ in batch}
            require_unit(encoded, names[list(digests)])
            sha256 |= digests
            vectors.append(encoded.astype(np.float16))
    return sha256, np.concatenate(vectors)


def require_unit(vectors: Vectors, names: pd.Series) -> None:
    """Refuse vectors (N, D) that are not finite or not of unit length.

    Raises:
        CorpusError: Naming the first pair (N,) that has one.
    """
    for row in bad_rows(vectors)[:1]:
        raise CorpusError(
            f"corpus: the encoder gives no unit vector for {names.iloc[row]!r}; check the "
            "checkpoint, or use `embedding.precision: fp32`"
        )


def read_ahead(items: Iterator[Any], ahead: int = READ_AHEAD) -> Generator[Any, None, None]:
    """Yield items that a thread takes from their iterator, `ahead` at most before they are asked
    for; what it raises is raised here.
    """
    # In this thread, where it can be interrupted: before the first image the others are downloaded.
    yield from islice(items, 1)
    end, waiting = object(), deque[Any]()
    thread = ThreadPoolExecutor(1, "read-ahead")
    try:
        while True:
            waiting.extend(thread.submit(next, items, end) for _ in range(ahead - len(waiting)))
            if (item := waiting.popleft().result()) is end:
                return
            yield item
    finally:
        thread.shutdown(wait=False, cancel_futures=True)  # it may wait for a server


def _usable(
    loaded: Iterator[tuple[list[Any], list[Any]]], source: ImageSource
) -> Iterator[tuple[int, str, Any]]:
    for images, results in loaded:
        for (row, digest, _), pixels in zip(images, results, strict=True):
            if isinstance(pixels, BadImage):
                source.refuse(row, pixels)
            else:
                yield row, digest, pixels
