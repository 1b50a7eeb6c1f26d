"""Kept texts: a row for every text of a training, computed once into one file that all processes map.

Rows are written as they come and survive a kill, so that neither ten million texts nor a resumed training start again.
Does not belong here: which texts, and what a row is (`texts`). Shapes: U texts, W values of a row.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from react_pipeline.store import TrainingError, write_atomically
from react_pipeline.training.distributed import World

AT_ONCE = 65_536
"""Rows that all processes together make before they are written: a kill loses no more."""

BLOCK_BYTES = 1 << 24
"""Read at once where what an earlier try left is checked."""

logger = logging.getLogger(__name__)


def kept_rows(
    path: Path, count: int, make: Callable[[Tensor], Tensor], dtype: torch.dtype, world: World
) -> NDArray[np.generic]:
    """Rows (U, W), mapped from `path`.

    Args:
        path: The same file in all processes; the writer's file system must have room for it.
        count: U.
        make: The rows (B, W) of the texts at these positions (B,); each process makes a part.
        dtype: Of the file.

    Raises:
        TrainingError: If the disk has no room.
    """
    about = path.with_suffix(".json")
    width = make(torch.zeros(1, dtype=torch.long)).shape[1]
    row_bytes = width * dtype.itemsize
    done = lacking = 0
    digest = hashlib.sha256()
    if world.is_writer:
        known = {"rows": count, "width": width, "dtype": str(dtype)}
        done, digest = _done(path, about, known, row_bytes)
        lacking = (count - done) * row_bytes - shutil.disk_usage(path.parent).free
    done, lacking = world.broadcast((done, lacking))
    if lacking > 0:
        raise TrainingError(
            f"the texts of the training need {lacking:,} bytes more than {path.parent} has free; free them, or put the "
            "store on a larger disk"
        )
    with tqdm(total=count, initial=done, desc="texts, kept", disable=None if world.is_writer else True) as bar:
        while done < count:
            some = min(AT_ONCE, count - done)
            start = done
            rows = world.shared(some, lambda mine, start=start: make(start + mine).to(dtype))  # type: ignore[misc]
            done += some
            if world.is_writer:
                content = rows.numpy().tobytes()
                digest.update(content)
                with path.open("ab") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                write_atomically(about, json.dumps({**known, "done": done, "sha256": digest.hexdigest()}))
            bar.update(some)
    world.broadcast(None)  # the others map what the writer has written
    numbers = torch.empty(0, dtype=dtype).numpy().dtype
    return np.memmap(path, numbers, mode="r", shape=(count, width))


def _done(path: Path, about: Path, known: dict[str, object], row_bytes: int) -> tuple[int, hashlib._Hash]:
    """How many rows an earlier try left, and their digest so far; the file is cut to them: more may be a torn part."""
    digest = hashlib.sha256()
    try:
        left = json.loads(about.read_text(encoding="utf-8"))
        done, written = int(left.pop("done")), left.pop("sha256")
        if left == known and path.stat().st_size >= done * row_bytes:
            os.truncate(path, done * row_bytes)
            with path.open("rb") as file:
                while part := file.read(BLOCK_BYTES):
                    digest.update(part)
            if digest.hexdigest() == written:
                return done, digest
            logger.warning("%s: its bytes are not those that were written; the texts are encoded again", path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    about.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    path.touch()
    return 0, hashlib.sha256()
