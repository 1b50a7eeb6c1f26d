"""How many processes decode images: `workers`."""

from typing import Annotated, Literal

from pydantic import Field

Workers = Annotated[int, Field(ge=0)] | Literal["auto"]


def count_workers(workers: Workers, processes: int = 1) -> int:
    """Return the decoding processes of each of `processes`; `auto` leaves one core to compute."""
    if workers != "auto":
        return workers
    from joblib import cpu_count  # heeds affinity and the limits of containers

    return max(cpu_count() // processes - 1, 1)
