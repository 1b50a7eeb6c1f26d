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
from torch.utils.data import DataLoader
from tqdm import tqdm

from react_pipeline.corpus import BadImage, decode_image
from react_pipeline.embedding import Encoder
from react_pipeline.store import ReactError, fsync, rename_synced
from react_pipeline.use.pictures import LedgerRow, Picture

PART_PICTURES = 4_096
"""Of one file: what a kill costs at most."""

Columns = Callable[[NDArray[np.float32]], dict[str, pa.Array]]
"""What is kept of unit vectors (B, D): columns of B rows."""

_LEDGER = b"skipped"


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
            return number, self.to_tensor(
                decode_image(self.pictures[number].read(), self.max_pixels)
            )
        except (
            BadImage,
            ReactError,
        ) as error:  # of a shard on a server: raised by a worker it would be a traceback
            return number, error


def _collate(rows: list[tuple[int, Tensor | BadImage | ReactError]]) -> dict[str, Any]:
    good = [(number, pixels) for number, pixels in rows if isinstance(pixels, Tensor)]
    bad = [
        (number, found.reason, found.detail)
        for number, found in rows
        if isinstance(found, BadImage)
    ]
    pixels = torch.stack([pixels for _, pixels in good]) if good else None
    fatal = next((found for _, found in rows if isinstance(found, ReactError)), None)
    return {"numbers": [number for number, _ in good], "pixels": pixels, "bad": bad, "fatal": fatal}


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
        ReactError: If a decoding process dies, or the model gives a vector that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(pictures), PART_PICTURES)
    missing = [start for start in starts if not _part(folder, start).exists()]
    batches = [
        range(first, min(first + batch_size, start + PART_PICTURES, len(pictures)))
        for start in missing
        for first in range(start, min(start + PART_PICTURES, len(pictures)), batch_size)
    ]
    loader: DataLoader[Any] = DataLoader(
        _Decoded(pictures, encoder.to_tensor, max_pixels),  # type: ignore[arg-type]  # a dataset by its methods
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=min(workers, len(batches)),
        collate_fn=_collate,
        pin_memory=encoder.clip.device != "cpu",
    )
    todo = sum(map(len, batches))
    rows: list[pa.Table] = []
    ledger: list[LedgerRow] = []
    nothing = np.zeros((0, encoder.clip.dimension), np.float32)
    try:
        with tqdm(
            total=len(pictures),
            initial=len(pictures) - todo,
            unit="picture",
            disable=None,
            leave=False,
        ) as bar:
            for chosen, batch in zip(batches, loader, strict=True):
                if batch["fatal"] is not None:
                    raise batch["fatal"]
                ledger += [(pictures[number].name, *about) for number, *about in batch["bad"]]
                numbers = batch["numbers"]
                vectors = encoder.images(batch["pixels"]).numpy() if numbers else nothing
                if not np.isfinite(vectors).all():
                    worst = pictures[
                        numbers[int((~np.isfinite(vectors)).any(axis=1).argmax())]
                    ].name
                    raise ReactError(
                        f"{worst}: the model gives values that are not finite; use precision fp32"
                    )
                names = pa.array([pictures[number].name for number in numbers], pa.string())
                rows.append(pa.table({"path": names, **columns(vectors)}))
                bar.update(len(chosen))
                if chosen[-1] + 1 == len(pictures) or (chosen[-1] + 1) % PART_PICTURES == 0:
                    _write(_part(folder, chosen[0] // PART_PICTURES * PART_PICTURES), rows, ledger)
                    rows, ledger = [], []
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ReactError(
            "a decoding process died, most likely for lack of memory; what is done is kept: use "
            "fewer workers"
        ) from error


def read_parts(folder: Path) -> Iterator[tuple[pa.Table, list[LedgerRow]]]:
    """Each part in the order of the pictures: its rows (path, and `columns`), and what was skipped."""
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        ledger = [tuple(row) for row in json.loads(table.schema.metadata[_LEDGER])]
        yield table.replace_schema_metadata(None), ledger


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:012d}.parquet"


def _write(path: Path, rows: Sequence[pa.Table], ledger: Sequence[LedgerRow]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    table = pa.concat_tables(rows).replace_schema_metadata({_LEDGER: json.dumps(ledger)})
    pq.write_table(table, partial)
    rename_synced(partial, path)
    fsync(path.parent)
