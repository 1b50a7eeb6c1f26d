"""Configuration of the benchmark: the section `elevater` of `pipeline.yaml`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator

from react_pipeline.settings import Section
from react_pipeline.store import InputError

from .datasets import DATASETS, dataset

# Of a file every value is text, which a literal does not take as a number.
Shots = Annotated[Literal[5, 20, 50, -1], BeforeValidator(TypeAdapter(int).validate_python)]


class ElevaterConfig(Section):
    """What is measured on ELEVATER's data sets."""

    root: Path | None = None
    datasets: tuple[str, ...] = ()
    shots: tuple[Shots, ...] = ()
    adaptations: tuple[Literal["linear-probe", "fine-tune"], ...] = Field(
        default=("linear-probe",), min_length=1
    )
    seeds: int = Field(default=3, gt=0)
    normalize: bool = True

    @field_validator("datasets")
    @classmethod
    def _datasets_are_known(cls, datasets: tuple[str, ...]) -> tuple[str, ...]:
        for name in datasets:
            _require_known(name)
        return datasets

    @field_validator("datasets", "shots", "adaptations")
    @classmethod
    def _nothing_twice(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"names something twice: {', '.join(map(str, values))}")
        return values

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """Return the data sets to measure on."""
        return self.datasets or tuple(DATASETS)


def _require_known(name: str) -> None:
    try:
        dataset(name)
    except InputError as error:
        raise ValueError(str(error)) from error
