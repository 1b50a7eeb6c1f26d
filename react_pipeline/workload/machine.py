"""The machine that the sums of `plan` are for: this one, or figures of another."""

import os
import re
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from react_pipeline.clip import choose_precision
from react_pipeline.indexing import machine_memory_bytes
from react_pipeline.store import InputError

_FIGURE = re.compile(r"(\d+(?:\.\d+)?)([kMGT]?)")
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Machine:
    """What decides hours and what fits.

    Attributes:
        cores: Of it, and of each worker.
        memory: Bytes.
        disk: Free bytes under `store`.
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

        free = shutil.disk_usage(
            next(path for path in (store, *store.parents) if path.exists())
        ).free
        gpus, precision = torch.cuda.device_count(), choose_precision("auto", "cpu")
        return cls(os.cpu_count() or 1, machine_memory_bytes(), free, gpus, precision=precision)

    def changed(self, text: str) -> Self:
        """With some figures replaced, such as `cores=64,memory=256G,gpus=1,workers=16`.

        Raises:
            InputError: Naming what is not a figure of a machine.
        """
        known, given = [entry.name for entry in fields(self)], dict[str, Any]()
        for part in filter(None, text.split(",")):
            name, _, value = (piece.strip() for piece in part.partition("="))
            figure = _FIGURE.fullmatch(value)
            number = int(float(figure[1]) * _UNITS[figure[2]]) if figure else None
            given[name] = value if name == "precision" else number
            if (
                name not in known
                or given[name] is None
                or given.get("precision", "bf16") not in ("bf16", "fp32")
            ):
                raise InputError(
                    f"--machine: {part!r}; give {', '.join(known)} as numbers (64, 256G; bf16 or "
                    "fp32)"
                )
        if given.get("cores") == 0:
            raise InputError("--machine: cores=0; give 1 or more")
        return replace(self, **given)
