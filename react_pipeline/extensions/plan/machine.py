"""The machine that the sums of `plan` are for: this one, or figures of another."""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from react_pipeline.indexing import machine_memory_bytes
from react_pipeline.store import InputError

_FIGURE = re.compile(r"(\d+(?:\.\d+)?)([kMGT]?)")
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Machine:
    """What decides hours and what fits.

    Attributes:
        memory: Bytes.
        disk: Free bytes under `store`.
    """

    cores: int
    memory: int
    disk: int
    gpus: int = 0

    @classmethod
    def here(cls, store: Path) -> Self:
        """Return this machine."""
        import torch
        from joblib import cpu_count

        folder = next(path for path in (store, *store.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        return cls(cpu_count(), machine_memory_bytes(), free, torch.cuda.device_count())

    def changed(self, text: str) -> Self:
        """Return a machine with other figures, such as `cores=64,memory=256G,gpus=1`.

        Raises:
            InputError: Naming what is not a figure of a machine.
        """
        figures = asdict(self)
        for part in filter(None, text.replace(" ", "").split(",")):
            name, _, value = part.partition("=")
            figure = _FIGURE.fullmatch(value)
            if name not in figures or figure is None or part == "cores=0":
                raise InputError(
                    f"--machine: {part!r}; give {', '.join(figures)} as numbers, such as 64 or "
                    "256G, and at least one core"
                )
            figures[name] = int(float(figure[1]) * _UNITS[figure[2]])
        return type(self)(**figures)
