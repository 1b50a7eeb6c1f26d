"""Encoding many pictures: decoded in workers, encoded in batches, kept part by part, so that a
killed run can resume.

Belongs here: the loader, the parts on disk, the ledger of what cannot be decoded. Does not belong
here: which pictures (`pictures`), what is made of their vectors (`predict`). Shapes: B pictures, D
embedding dimension.

Parts and batches are cut by the position of a picture alone, so that a run that was interrupted
computes the same batches, and gives the same digits, as one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from react_pipeline.corpus import BadImage, decode_apart, load_batches
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.predict.pictures import LedgerRow, Picture
from react_pipeline.store import ReactError, fsync, rename_synced

PART_PICTURES = 4_096
"""Of one file: what a kill costs at most."""

Columns = Callable[[NDArray[np.float32]], dict[str, pa.Array]]
"""What is kept of unit vectors (B, D): columns of B rows."""

LEDGER = b"skipped"
"""In the metadata of a file of rows: what was skipped, as JSON."""


@dataclass(frozen=True)
class _Decoded:
    """A dataset of torch: pixels as the tower takes them, or why there are none. Can be sent to
    other processes.
    """

    pictures: Sequence[Picture]
    to_tensor: Callable[[Image.Image], Tensor]
    max_pixels: int

    def __getitem__(self, number: int) -> tuple[int, Tensor | BadImage | ReactError]:
        try:
            image, _ = decode_apart(self.pictures[number].read(), self.max_pixels)
            return number, self.to_tensor(image)
        except (BadImage, ReactError) as error:
            # Raised by a worker, that of a shard on a server would be a traceback.
            return number, error


def _collate(rows: list[tuple[int, Tensor | BadImage | ReactError]]) -> dict[str, Any]:
    batch: dict[str, Any] = {"numbers": [], "pixels": None, "bad": [], "fatal": None}
    tensors = []
    for number, result in rows:
        if isinstance(result, Tensor):
            batch["numbers"].append(number)
            tensors.append(result)
        elif isinstance(result, BadImage):
            batch["bad"].append((number, result.reason, result.detail))
        else:
            batch["fatal"] = result
    if tensors:
        batch["pixels"] = torch.stack(tensors)
    return batch


def encode_pictures(
    encoder: Encoder,
    pictures: Sequence[Picture],
    folder: Path,
    columns: Columns,
    *,
    batch_size: int,
    workers: int,
    max_pixels: int,
) -> None:
    """Encode what is missing in `folder`, part by part; `read_parts` gives it back.

    Args:
        pictures: All of them; the same ones whenever this is called with this folder.
        folder: Made if missing. Each file in it is whole.
        workers: Decoding processes; 0: this one.

    Raises:
        ReactError: If a decoding process dies for want of memory, or a vector is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    batches = _missing_batches(folder, len(pictures), batch_size)
    loader = load_batches(
        _Decoded(pictures, encoder.to_tensor, max_pixels),
        batches,
        min(workers, len(batches)),
        _collate,
        pin_memory=encoder.clip.device != "cpu",
    )
    finished = len(pictures) - sum(map(len, batches))
    rows: list[pa.Table] = []
    ledger: list[LedgerRow] = []
    bar = tqdm(total=len(pictures), initial=finished, unit="picture", disable=None, leave=False)
    with bar:
        for numbers, batch in zip(batches, loader, strict=True):
            if batch["fatal"] is not None:
                raise batch["fatal"]
            for number, reason, detail in batch["bad"]:
                ledger.append((pictures[number].name, reason, detail))
            rows.append(_encode(encoder, pictures, batch, columns))
            bar.update(len(numbers))
            end = numbers[-1] + 1
            if end == len(pictures) or end % PART_PICTURES == 0:
                start = numbers[0] // PART_PICTURES * PART_PICTURES
                _write(_part(folder, start), rows, ledger)
                rows = []
                ledger = []


def _missing_batches(folder: Path, total: int, batch_size: int) -> list[range]:
    """The numbers of the pictures of each batch, for all parts that are not in the folder."""
    batches = []
    for start in range(0, total, PART_PICTURES):
        if not _part(folder, start).exists():
            end = min(start + PART_PICTURES, total)
            firsts = range(start, end, batch_size)
            batches += [range(first, min(first + batch_size, end)) for first in firsts]
    return batches


def _encode(
    encoder: Encoder, pictures: Sequence[Picture], batch: dict[str, Any], columns: Columns
) -> pa.Table:
    """The rows of a batch.

    Raises:
        ReactError: If a vector is not finite.
    """
    names = [pictures[number].name for number in batch["numbers"]]
    vectors = np.zeros((0, encoder.clip.dimension), np.float32)
    if names:
        vectors = encoder.images(batch["pixels"]).numpy()
    broken = (~np.isfinite(vectors)).any(axis=1)
    if broken.any():
        raise ReactError(
            f"{names[int(broken.argmax())]}: the model gives values that are not finite; use "
            "precision fp32"
        )
    return pa.table({"path": pa.array(names, pa.string()), **columns(vectors)})


def read_parts(folder: Path) -> Iterator[tuple[pa.Table, list[LedgerRow]]]:
    """Yield the rows of each part (path, and `columns`) and what was skipped, in the order of the
    pictures.
    """
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        ledger = [tuple(row) for row in json.loads(table.schema.metadata[LEDGER])]
        yield table.replace_schema_metadata(None), ledger


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:012d}.parquet"


def _write(path: Path, rows: Sequence[pa.Table], ledger: Sequence[LedgerRow]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    table = pa.concat_tables(rows).replace_schema_metadata({LEDGER: json.dumps(ledger)})
    pq.write_table(table, partial)
    rename_synced(partial, path)
    fsync(path.parent)
