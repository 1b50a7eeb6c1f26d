"""Configuration of the benchmark: the section `elevater` of `pipeline.yaml`, and the experiments
that it asks for.

Plain data, without torch. Does not belong here: measuring (`measuring`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator

from react_pipeline.settings import Section
from react_pipeline.store import InputError

from .datasets import DATASETS, dataset
from .shots import FULL

# Of a file every value is text, which a literal does not take as a number.
Shots = Annotated[Literal[5, 20, 50, -1], BeforeValidator(TypeAdapter(int).validate_python)]


@dataclass(frozen=True)
class Experiment:
    """What is measured on a data set: `zero-shot`, or an adaptation to a number of shots drawn with
    a seed; 0 shots are zero-shot, -1 all training images.
    """

    adaptation: Literal["zero-shot", "linear-probe", "fine-tune"] = "zero-shot"
    shots: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Return the name without the seed: `zero-shot`, `linear-probe-5`, `fine-tune-full`."""
        shots = {0: "", FULL: "-full"}.get(self.shots, f"-{self.shots}")
        return f"{self.adaptation}{shots}"

    @property
    def folder(self) -> str:
        """Return the folder of its prediction files, as the benchmark names them: `zero_shot`,
        `linear_probe_5`, `finetuning_full`.
        """
        return self.name.replace("fine-tune", "finetuning").replace("-", "_")

    @property
    def protocols(self) -> tuple[str, ...]:
        """Return how it is read: a training by its last epoch (`clean`) and by its best on the test
        images (`elevater`).
        """
        return ("clean", "elevater") if self.shots else ("zero-shot",)


class ElevaterConfig(Section):
    """What is measured on ELEVATER's data sets."""

    root: Path | None = None
    datasets: tuple[str, ...] = ()
    shots: tuple[Shots, ...] = ()
    adaptations: tuple[Literal["linear-probe", "fine-tune"], ...] = Field(
        default=("linear-probe",), min_length=1
    )
    seeds: int = Field(default=3, gt=0)

    @field_validator("datasets")
    @classmethod
    def _datasets_are_known(cls, datasets: tuple[str, ...]) -> tuple[str, ...]:
        for name in datasets:
            require_known(name)
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

    @property
    def experiments(self) -> list[Experiment]:
        """Return what is measured on each data set. Full shot has one seed: nothing is drawn."""
        planned = [Experiment()]
        for adaptation in self.adaptations:
            for shots in self.shots:
                seeds = 1 if shots == FULL else self.seeds
                planned += [Experiment(adaptation, shots, seed) for seed in range(seeds)]
        return planned


def require_known(name: str) -> None:
    """Refuse the name of no data set, as validators of pydantic do."""
    try:
        dataset(name)
    except InputError as error:
        raise ValueError(str(error)) from error
