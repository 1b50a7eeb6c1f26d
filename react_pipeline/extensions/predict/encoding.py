"""Encoding many pictures: decoded in workers, encoded in batches, kept part by part, so that a
killed run can resume.

Belongs here: the loader, the parts on disk. Does not belong here: which pictures (`pictures`), what
is made of their vectors (`predict`). Shapes: B pictures, D embedding dimension.

A part is a table with a row per picture: `path`, `vector` (D,), and of one that cannot be used
`reason` and `detail`, with a vector of zeros. Parts and batches are cut by the position of a
picture alone, so that a run that was interrupted computes the same batches, and gives the same
digits, as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from react_pipeline.clip import Clip
from react_pipeline.corpus import BadImage, Decoder, load_batches, progress
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.predict.pictures import LedgerRow, Picture
from react_pipeline.extensions.predict.run_folder import Options
from react_pipeline.store import ReactError, Scratch

PART_PICTURES = 4_096
"""Pictures of one part, which is what a kill costs at most."""
CPU_BATCH, GPU_BATCH = 64, 256


def no_pictures(dimension: int) -> pa.Table:
    """Return a part without pictures."""
    text = pa.string()
    vector = pa.list_(pa.float32(), dimension)
    names = {"path": text, "vector": vector, "reason": text, "detail": text}
    return pa.schema(names).empty_table()


def usable_rows(part: pa.Table) -> pa.Table:
    """Return `path` and `vector` of a part's usable pictures."""
    return part.filter(part["reason"].is_null()).select(["path", "vector"])


def part_vectors(part: pa.Table) -> tuple[list[str], NDArray[np.float32]]:
    """Return the paths of a part's B usable pictures, and their unit vectors (B, D)."""
    paths, vectors = usable_rows(part)
    values = np.array(vectors.combine_chunks().flatten())
    return paths.to_pylist(), values.reshape(-1, vectors.type.list_size)


def part_ledger(part: pa.Table) -> list[LedgerRow]:
    """Return what of a part could not be used."""
    refused = part.filter(part["reason"].is_valid()).select(["path", "reason", "detail"])
    return list(zip(*(column.to_pylist() for column in refused.columns), strict=True))


def encode_pictures(
    clip: Clip,
    pictures: Sequence[Picture],
    folder: Path | None,
    precision: str,
    options: Options,
) -> Iterator[pa.Table]:
    """Yield the encoded pictures in their order, part by part.

    Args:
        pictures: All of them; the same ones whenever this is called with this folder.
        folder: Keeps each part for another call.
        precision: As `embedding.precision`.
        options: Their `workers` (0: this process decodes) and `max_pixels`.

    Raises:
        ReactError: If a vector is not finite, or a shard cannot be read.
    """
    encoder = Encoder(clip, precision, rows=len(pictures))
    decoder = Decoder(methodcaller("read"), encoder.to_tensor, options.max_pixels)
    size = CPU_BATCH if clip.device == "cpu" else GPU_BATCH

    def encode(some: Sequence[Picture]) -> pa.Table:
        batches = [some[start : start + size] for start in range(0, len(some), size)]
        loaded = load_batches(decoder, batches, min(options.workers, len(batches)))
        return pa.concat_tables(_encode(encoder, *batch) for batch in loaded)

    def write(some: Sequence[Picture], file: Path) -> None:
        pq.write_table(encode(some), file)

    starts = range(0, len(pictures), PART_PICTURES)
    for start in progress(starts, "encoding pictures", "part", len(starts)):
        some = pictures[start : start + PART_PICTURES]
        if folder is None:
            yield encode(some)
        else:
            name = f"{start:012d}.parquet"
            yield pq.read_table(Scratch(folder).keep(name, partial(write, some)))


def _encode(encoder: Encoder, pictures: Sequence[Picture], loaded: list[Any]) -> pa.Table:
    """Encode a batch, or raise what a worker met."""
    for result in loaded:
        if isinstance(result, ReactError):
            raise result
    rows = [(picture.name, result) for picture, result in zip(pictures, loaded, strict=True)]
    good = [row for row in rows if not isinstance(row[1], BadImage)]
    bad = [row for row in rows if isinstance(row[1], BadImage)]
    names = [name for name, _ in good + bad]
    vectors = np.zeros((len(rows), encoder.clip.dimension), np.float32)
    if good:
        pixels = torch.from_numpy(np.stack([pixels for _, pixels in good]))
        vectors[: len(good)] = encoder.images(pixels).numpy()
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise ReactError(
            f"{names[int(broken.argmax())]}: the model gives values that are not finite; use "
            "precision fp32"
        )
    values = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1])
    reasons = [None] * len(good) + [error.reason for _, error in bad]
    details = [None] * len(good) + [error.detail for _, error in bad]
    schema = no_pictures(vectors.shape[1]).schema
    return pa.table([names, values, reasons, details], schema)
