"""Kept rows: what a training computes once of every text or image, in a file that all its processes
map.

Rows are written as they come and survive a kill, so that neither ten million texts nor a resumed
training start again. Does not belong here: what a row is (`texts`, `kept_tokens`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from react_pipeline.store import write_atomically
from react_pipeline.training.distributed import World

DURABLE_BYTES = 64 << 20
"""Bytes after which what was written is put on the disk and vouched for: a kill loses no more."""

logger = logging.getLogger(__name__)


def kept_rows(
    path: Path,
    shape: tuple[int, ...],
    make: Callable[[Iterator[Tensor]], Generator[Tensor, None, None]],
    dtype: torch.dtype,
    world: World,
    at_once: int,
    disk_fraction: float = 1.0,
) -> Tensor | None:
    """Rows of this shape, mapped from `path`; None where those that are missing do not fit the
    disk.

    Args:
        path: The same file in all processes; the first dimension of `shape` counts its rows.
        make: The rows of each part (B,) of row numbers, on any device; each process makes some of
            the parts.
        dtype: Of the file.
        at_once: Rows that all processes together make before they are written.
        disk_fraction: Of the free disk, what may be used.
    """
    about, row_bytes = path.with_suffix(".json"), math.prod(shape[1:]) * dtype.itemsize
    known = {"shape": list(shape), "dtype": str(dtype)}
    done, digest, fits = 0, hashlib.sha256(), True
    if (
        world.is_writer
    ):  # it decides for all: the others would look at a disk that changes meanwhile
        done, digest = _done(path, about, known, row_bytes)
        fits = (shape[0] - done) * row_bytes <= disk_fraction * shutil.disk_usage(path.parent).free
    done, fits = world.broadcast((done, fits))
    if not fits:
        return None
    counts = {start: min(at_once, shape[0] - start) for start in range(done, shape[0], at_once)}
    made = make(start + world.share(count) for start, count in counts.items())
    bar = tqdm(
        total=shape[0],
        initial=done,
        desc=f"{path.name}, kept",
        disable=None if world.is_writer else True,
    )
    with path.open("ab") if world.is_writer else nullcontext() as file, bar, closing(made):
        for start, count in counts.items():
            rows = (
                next(made).to(dtype).contiguous().view(torch.uint8)
            )  # as bytes, which any backend can send
            content = world.joined(rows, count).numpy().tobytes()
            bar.update(count)
            if file is None:
                continue
            digest.update(content)
            file.write(content)
            written = start + count
            if written == shape[0] or (written - done) * row_bytes >= DURABLE_BYTES:
                done = written
                file.flush()
                os.fsync(file.fileno())
                write_atomically(
                    about, json.dumps({**known, "done": done, "sha256": digest.hexdigest()})
                )
    world.broadcast(None)  # the others map what the writer has written
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape)


def _done(
    path: Path, about: Path, known: Mapping[str, object], row_bytes: int
) -> tuple[int, hashlib._Hash]:
    """How many rows an earlier try left, and their digest so far; the file is cut to them: more may
    be a torn part.
    """
    try:
        left = json.loads(about.read_text(encoding="utf-8"))
        done, written = int(left.pop("done")), left.pop("sha256")
        if left == known and path.stat().st_size >= done * row_bytes:
            os.truncate(path, done * row_bytes)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            if digest.hexdigest() == written:
                return done, digest
            logger.warning(
                "%s: its bytes are not those that were written; its rows are computed again", path
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    about.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return 0, hashlib.sha256()
