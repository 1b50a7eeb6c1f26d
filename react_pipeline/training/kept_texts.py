"""Kept texts: a row for every text of a training, computed once into one file that all processes map.

Rows are written as they come and survive a kill, so that neither ten million texts nor a resumed training start again.
Does not belong here: which texts, and what a row is (`texts`). Shapes: U texts, W values of a row.
"""

from __future__ import annotations

import json
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
    if world.is_writer:
        known = {"rows": count, "width": width, "dtype": str(dtype)}
        done = _done(path, about, known, row_bytes)
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
                with path.open("ab") as file:
                    file.write(rows.numpy().tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                write_atomically(about, json.dumps({**known, "done": done}))
            bar.update(some)
    world.broadcast(None)  # the others map what the writer has written
    numbers = torch.empty(0, dtype=dtype).numpy().dtype
    return np.memmap(path, numbers, mode="r", shape=(count, width))


def _done(path: Path, about: Path, known: dict[str, object], row_bytes: int) -> int:
    """How many rows an earlier try left; the file is cut to them, since more may have been torn off."""
    try:
        left = json.loads(about.read_text(encoding="utf-8"))
        done = int(left.pop("done"))
        if left == known and path.stat().st_size >= done * row_bytes:
            os.truncate(path, done * row_bytes)
            return done
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    about.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    path.touch()
    return 0
