"""Images of chosen rows, fetched from their source, decoded in other processes, and made into
vectors.

Does not belong here: which rows are chosen, where images come from (`corpus.ImageSource`). Shapes:
N rows, D width.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from react_pipeline.corpus import BadImage, ImageSource, decode_apart, load_batches, progress
from react_pipeline.embedding.encoder import Encoder
from react_pipeline.embedding.parts import bad_rows
from react_pipeline.settings import PipelineConfig
from react_pipeline.store import CorpusError

DECODED_AT_ONCE = 32
"""Images that a process decodes before it hands them over."""

READ_AHEAD = 64
"""Images that are read and wait to be decoded."""
READER_ENDS_SECONDS = 5
"""How long the end of reading is waited for; a server may answer later."""

Image = tuple[int, str, bytes]
"""Row, SHA-256 of the file, the file."""


@dataclass(frozen=True)
class Fetched:
    """The images that were available.

    Attributes:
        sha256: Digest of each, by row, in the order in which they were fetched.
        vectors: Their unit vectors (N, D), float16: rounded as they are stored, so that what is
            decided by them is decided alike in a later build.
    """

    sha256: dict[int, str]
    vectors: NDArray[np.float16]


def encode_fetched(
    source: ImageSource, rows: pd.DataFrame, encoder: Encoder, config: PipelineConfig
) -> Fetched:
    """Fetch the images of some rows (columns `row` and those of the source) and encode them.

    Images are read while others are encoded; memory holds some hundreds of files. `source.failed`
    says why others are not available.

    Raises:
        CorpusError: If a vector is not finite or not of unit length.
        ReactError: If a decoding process dies for want of memory.
    """
    with closing(read_ahead(_fetched(source, rows))) as images:
        return _encode(images, source, rows, encoder, config)


def _encode(
    images: Iterator[Image],
    source: ImageSource,
    rows: pd.DataFrame,
    encoder: Encoder,
    config: PipelineConfig,
) -> Fetched:
    fetched = progress(images, "encoding images", "image", len(rows))
    workers = min(config.embedding.worker_count, len(rows) // DECODED_AT_ONCE)
    decoder = _Decoder(encoder.to_tensor, config.corpus.max_pixels)
    loaded = load_batches(decoder, _cut(fetched, DECODED_AT_ONCE), workers, _collate)
    sha256: dict[int, str] = {}
    vectors = [np.empty((0, encoder.clip.dimension), np.float16)]
    for batch in _cut(_usable(loaded, source), config.embedding.batch_size):
        encoded = encoder.images(torch.stack([pixels for _, _, pixels in batch])).numpy()
        for place in bad_rows(encoded).tolist():
            row = rows[rows["row"] == batch[place][0]].iloc[0]
            raise CorpusError(
                f"corpus: the encoder gives no unit vector for the image of "
                f"{row.get('image_path', row.get('url'))!r}; check the checkpoint, or use "
                "`embedding.precision: fp32`"
            )
        sha256 |= {row: digest for row, digest, _ in batch}
        vectors.append(encoded.astype(np.float16))
    return Fetched(sha256, np.concatenate(vectors))


def _fetched(source: ImageSource, rows: pd.DataFrame) -> Iterator[Image]:
    for pair, image in source.fetch(rows):
        yield int(pair.row), str(pair.image_sha256), image


def read_ahead(items: Iterator[Any], ahead: int = READ_AHEAD) -> Generator[Any, None, None]:
    """Yield items that a thread takes from their iterator, `ahead` at most before they are asked
    for; what it raises is raised here. It ends with this generator, after the item that it reads.
    """
    # In this thread, where it can be interrupted: before the first image the others are downloaded.
    yield from islice(items, 1)
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
    is_over = threading.Event()

    def read() -> None:
        try:
            for item in items:
                waiting.put((item, None))
                if is_over.is_set():
                    return
            waiting.put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001 - raised where the items are used
            waiting.put((None, error))

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        is_over.set()
        with suppress(queue.Empty):  # the thread may wait for a place
            while True:
                waiting.get_nowait()
        thread.join(READER_ENDS_SECONDS)


def _cut(items: Iterator[Any], length: int) -> Iterator[list[Any]]:
    while some := list(islice(items, length)):
        yield some


@dataclass(frozen=True)
class _Decoder:
    """A dataset of torch whose indices are images."""

    to_tensor: Callable[..., Any]
    max_pixels: int

    def __getitem__(self, image: Image) -> tuple[int, str, Tensor | tuple[str, str]]:
        """Return row, digest, and pixels (3, H, W), or why there are none."""
        row, digest, data = image
        try:
            return row, digest, self.to_tensor(decode_apart(data, self.max_pixels)[0])
        except BadImage as error:
            return row, digest, (error.reason, error.detail)


def _collate(rows: list[Any]) -> tuple[list[tuple[int, str]], Tensor, list[Any]]:
    # One tensor, since each is a file that processes share.
    good = [row for row in rows if isinstance(row[2], Tensor)]
    pixels = torch.stack([pixels for _, _, pixels in good]) if good else torch.empty(0)
    bad = [row for row in rows if not isinstance(row[2], Tensor)]
    return [(row, digest) for row, digest, _ in good], pixels, bad


def _usable(loaded: Iterator[Any], source: ImageSource) -> Iterator[tuple[int, str, Tensor]]:
    for named, pixels, bad in loaded:
        for row, _, reason in bad:
            source.refuse(row, *reason)
        for (row, digest), image in zip(named, pixels, strict=True):
            yield row, digest, image
