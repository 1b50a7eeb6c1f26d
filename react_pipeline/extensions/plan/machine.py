"""The machine that a plan is for: this one, or figures of another."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from react_pipeline.clip import cards, machine_memory_bytes
from react_pipeline.store import InputError

Bytes = Annotated[int, BeforeValidator(TypeAdapter(ByteSize).validate_python)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Machine:
    """Figures of a machine that decide hours and what fits.

    Attributes:
        memory: Bytes.
        disk: Free bytes under `store`.
        card: Bytes of memory of each GPU; 0 if that is not known.
    """

    cores: PositiveInt
    memory: Bytes
    disk: Bytes
    gpus: NonNegativeInt = 0
    card: Bytes = 0

    @classmethod
    def here(cls, store: Path, device: str = "auto") -> Self:
        """Return this machine, with the GPUs that a project with this device uses."""
        import torch
        from joblib import cpu_count

        folder = next(path for path in (store, *store.parents) if path.exists())
        disk = shutil.disk_usage(folder).free
        gpus = len(cards(device))
        card = torch.cuda.mem_get_info()[1] if gpus else 0
        return cls(cpu_count(), machine_memory_bytes(), disk, gpus, card)

    def changed(self, text: str) -> Self:
        """Return a machine with other figures, such as `cores=64,memory=256G,gpus=1`.

        Raises:
            InputError: Naming what is not a figure of a machine.
        """
        parts = [part.partition("=") for part in text.replace(" ", "").split(",") if part]
        figures: dict[str, Any] = {name: value for name, _, value in parts}
        try:
            return replace(self, **figures)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise InputError(f"--machine: {wrong['loc'][0]}: {wrong['msg']}") from error
