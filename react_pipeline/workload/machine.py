"""The machine that sums are for: this one, or figures of another.

Belongs here: what decides hours and what fits. Does not belong here: the sums (`plan`).
"""

import os
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from react_pipeline.clip import choose_precision
from react_pipeline.indexing import machine_memory_bytes
from react_pipeline.store import InputError

_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Machine:
    """What the sums are for.

    Attributes:
        cores: Of it, and of each worker.
        memory: Bytes.
        disk: Free bytes under `store`.
        gpus: 0: none.
        workers: Machines of a Spark cluster; 0: none.
        precision: What `auto` is on its cores.
    """

    cores: int
    memory: int
    disk: int
    gpus: int = 0
    workers: int = 0
    precision: str = "bf16"

    @classmethod
    def here(cls, store: Path) -> Self:
        """This machine."""
        import torch

        free = shutil.disk_usage(next(path for path in (store, *store.parents) if path.exists())).free
        gpus, precision = torch.cuda.device_count(), choose_precision("auto", "cpu")
        return cls(os.cpu_count() or 1, machine_memory_bytes(), free, gpus, precision=precision)

    def changed(self, text: str) -> Self:
        """With some figures replaced, such as `cores=64,memory=256G,gpus=1,workers=16`.

        Raises:
            InputError: Naming what is no figure of a machine.
        """
        known, given = [entry.name for entry in fields(self)], dict[str, Any]()
        for part in filter(None, text.split(",")):
            name, _, value = (piece.strip() for piece in part.partition("="))
            try:
                given[name] = (
                    value if name == "precision" else int(float(value.rstrip("kMGT")) * _UNITS.get(value[-1:], 1))
                )
            except ValueError:
                given[name] = None
            if name not in known or given[name] is None or given.get("precision", "bf16") not in ("bf16", "fp32"):
                raise InputError(f"--machine: {part!r}; give {', '.join(known)} as numbers (64, 256G; bf16 or fp32)")
        return replace(self, **given)
