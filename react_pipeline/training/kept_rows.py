"""Kept rows: what a training computes once of every text or image, in a file that all its processes
map.

A kept file survives a kill; a part of one is computed again. Does not belong here: what a row is
(`texts`, `kept_tokens`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from react_pipeline.store import Scratch
from react_pipeline.training.world import World

MakeRows = Callable[[Iterator[Tensor]], Generator[Tensor, None, None]]
"""Maps parts (B,) of row numbers to their rows, on any device."""


def kept_rows(
    scratch: Scratch,
    name: str,
    shape: tuple[int, ...],
    make: MakeRows,
    dtype: torch.dtype,
    world: World,
    at_once: int,
    disk_fraction: float = 1.0,
) -> Tensor | None:
    """Return rows of this shape, mapped from a file of the scratch; None where they do not fit the
    disk.

    Args:
        scratch: The same folder in all processes; the first dimension of `shape` counts its rows.
        name: Of the rows; that of the file names shape and type, too.
        make: Each process makes the rows of some parts.
        dtype: Of the file.
        at_once: Rows that all processes together make before they are written.
        disk_fraction: Of the free disk, what may be used.
    """
    name = "-".join([name, *map(str, shape), str(dtype).removeprefix("torch.")])
    path = scratch.folder / name
    free_bytes = disk_fraction * shutil.disk_usage(scratch.folder).free
    is_kept, fits = path.exists(), math.prod(shape) * dtype.itemsize <= free_bytes
    # The writer decides for all: the disk changes while the others look.
    is_kept, fits = world.broadcast((is_kept, fits))
    if not (is_kept or fits):
        return None
    if not is_kept:

        def write(path: Path | None) -> None:
            _write(path, name, shape[0], make, dtype, world, at_once)

        scratch.keep(name, write) if world.is_writer else write(None)
    world.broadcast(None)  # the others map what the writer has written
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)


def _write(
    path: Path | None,
    name: str,
    rows: int,
    make: MakeRows,
    dtype: torch.dtype,
    world: World,
    at_once: int,
) -> None:
    counts = {start: min(at_once, rows - start) for start in range(0, rows, at_once)}
    made = make(start + world.share(count) for start, count in counts.items())
    hidden = None if world.is_writer else True
    with (
        path.open("wb") if path else nullcontext() as file,
        tqdm(total=rows, desc=f"{name}, kept", disable=hidden) as bar,
        closing(made),
    ):
        for count in counts.values():
            part = next(made).to(dtype).contiguous()
            content = world.joined(part.view(torch.uint8), count)  # bytes, for any backend
            if file is not None:
                file.write(content.numpy().tobytes())
            bar.update(count)
