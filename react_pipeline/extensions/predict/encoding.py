"""Encoding many pictures: decoded in workers, encoded in batches, kept part by part, so that a
killed run can resume.

Belongs here: the loader, the parts on disk, the ledger of what cannot be decoded. Does not belong
here: which pictures (`pictures`), what is made of their vectors (`predict`). Shapes: B pictures, D
embedding dimension.

Parts and batches are cut by the position of a picture alone, so that a run that was interrupted
computes the same batches, and gives the same digits, as one that was not.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from react_pipeline.corpus import BadImage, decode_apart, load_batches
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.predict.pictures import LedgerRow, Picture
from react_pipeline.store import ReactError, rename_synced

PART_PICTURES = 4_096
"""Of one file: what a kill costs at most."""


@dataclass(frozen=True)
class Part:
    """Encoded pictures: B names and unit vectors (B, D), and what could not be used."""

    names: list[str]
    vectors: NDArray[np.float32]
    ledger: list[LedgerRow]


def joined(parts: Iterable[Part], dimension: int) -> Part:
    """Return parts, which may be none, as one."""
    names: list[str] = []
    vectors = [np.zeros((0, dimension), np.float32)]
    ledger: list[LedgerRow] = []
    for part in parts:
        names += part.names
        vectors.append(part.vectors)
        ledger += part.ledger
    return Part(names, np.concatenate(vectors), ledger)


def encode_pictures(
    encoder: Encoder,
    pictures: Sequence[Picture],
    folder: Path | None,
    *,
    batch_size: int,
    workers: int,
    max_pixels: int,
) -> Iterator[Part]:
    """Yield the encoded pictures in their order, part by part.

    Args:
        pictures: All of them; the same ones whenever this is called with this folder.
        folder: Keeps each part for another call; made if missing. Each file in it is whole.
        workers: Decoding processes; 0: this one.

    Raises:
        ReactError: If a vector is not finite, or a shard cannot be read.
    """
    with tqdm(total=len(pictures), unit="picture", disable=None, leave=False) as bar:
        for start in range(0, len(pictures), PART_PICTURES):
            some = pictures[start : start + PART_PICTURES]
            file = folder and folder / f"{start:012d}.npz"
            if file and file.exists():
                part = _read(file)
            else:
                dataset = _Decoded(some, encoder.to_tensor, max_pixels)
                places = range(len(some))
                batches = [places[n : n + batch_size] for n in range(0, len(some), batch_size)]
                processes = min(workers, len(batches))
                loader = load_batches(dataset, batches, processes, _collate)
                part = joined((_encode(encoder, batch) for batch in loader), encoder.clip.dimension)
                if file:
                    _write(file, part)
            bar.update(len(some))
            yield part


_Result = tuple[str, Tensor | tuple[str, str] | ReactError]
"""A picture's name, and its pixels, or why there are none."""
_Batch = tuple[list[str], list[Tensor], list[LedgerRow]]
"""Names of B pictures; their pixels (B, 3, H, W), one tensor or none; what cannot be used."""


@dataclass(frozen=True)
class _Decoded:
    """A dataset of torch: pixels as the tower takes them. Can be sent to other processes."""

    pictures: Sequence[Picture]
    to_tensor: Callable[[Image.Image], Tensor]
    max_pixels: int

    def __getitem__(self, number: int) -> _Result:
        picture = self.pictures[number]
        try:
            image, _ = decode_apart(picture.read(), self.max_pixels)
            return picture.name, self.to_tensor(image)
        except BadImage as error:
            return picture.name, (error.reason, error.detail)
        except ReactError as error:
            # Raised by a worker, that of a shard on a server would be a traceback.
            return picture.name, error


def _collate(rows: list[_Result]) -> _Batch | ReactError:
    names = []
    pixels = []
    ledger = []
    for name, result in rows:
        if isinstance(result, ReactError):
            return result
        if isinstance(result, Tensor):
            names.append(name)
            pixels.append(result)
        else:
            ledger.append((name, *result))
    return names, [torch.stack(pixels)] if pixels else [], ledger


def _encode(encoder: Encoder, batch: _Batch | ReactError) -> Part:
    """Encode a batch, or raise what a worker met.

    Raises:
        ReactError: If a vector is not finite.
    """
    if isinstance(batch, ReactError):
        raise batch
    names, pixels, ledger = batch
    vectors = np.concatenate(
        [np.zeros((0, encoder.clip.dimension), np.float32), *map(encoder.images, pixels)]
    )
    broken = (~np.isfinite(vectors)).any(axis=1)
    if broken.any():
        raise ReactError(
            f"{names[int(broken.argmax())]}: the model gives values that are not finite; use "
            "precision fp32"
        )
    return Part(names, vectors, ledger)


def _write(path: Path, part: Part) -> None:
    file = io.BytesIO()
    ledger = np.array(part.ledger, dtype=str).reshape(-1, 3)
    np.savez(file, names=np.array(part.names, dtype=str), vectors=part.vectors, ledger=ledger)
    write_whole(path, file.getvalue())


def _read(path: Path) -> Part:
    with np.load(path) as file:
        ledger = [(name, reason, detail) for name, reason, detail in file["ledger"].tolist()]
        return Part(file["names"].tolist(), file["vectors"], ledger)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all, whoever else writes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid4().hex}")
    try:
        partial.write_bytes(data)
        rename_synced(partial, path)
    finally:
        partial.unlink(missing_ok=True)
