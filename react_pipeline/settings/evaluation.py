"""Configuration of what is measured: a domain's labelled images, and ELEVATER's data sets.

Belongs here: the fields, their defaults and rules; `config` holds the sections that they are part
of. Does not belong here: reading the images (`labelled`).
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from react_pipeline.settings.datasets import DATASETS, Dataset, dataset
from react_pipeline.settings.training import Name, Section
from react_pipeline.store import InputError


class EvaluationSetConfig(Section):
    """A labelled set of images, used to evaluate and to keep its images out of the retrieved set."""

    name: Name
    kind: Literal["folder", "manifest", "elevater", "demo"]
    path: Path | None = None
    dataset: str | None = None

    @model_validator(mode="after")
    def _path_is_given(self) -> Self:
        needs = {"demo": (), "elevater": ("path", "dataset")}.get(self.kind, ("path",))
        for field in ("path", "dataset"):
            is_set = getattr(self, field) is not None
            if is_set != (field in needs):
                fault, remedy = (
                    ("does nothing for", "remove") if is_set else ("is missing for", "add")
                )
                raise ValueError(
                    f"`{field}` {fault} kind `{self.kind}`: {remedy} it, or set another kind"
                )
        if self.dataset is not None and _known_dataset(self.dataset).multilabel:
            raise ValueError(
                f"{self.dataset!r}: its images have several classes, so top-1 means nothing; "
                "`benchmark_results` measures it"
            )
        return self

    @property
    def squash(self) -> bool:
        """Whether images are squashed to a square rather than cropped, as the benchmark does for
        one data set.
        """
        return self.dataset is not None and _known_dataset(self.dataset).squash


class ElevaterConfig(Section):
    """What is measured on ELEVATER's data sets."""

    root: Path | None = None
    datasets: tuple[str, ...] = ()
    shots: tuple[Literal[5, 20, 50, -1], ...] = ()
    adaptations: tuple[Literal["linear-probe", "fine-tune"], ...] = Field(
        default=("linear-probe",), min_length=1
    )
    seeds: int = Field(default=3, gt=0)
    head_start: Literal["text", "random"] = "text"
    merge_projection: bool = False

    @field_validator("datasets")
    @classmethod
    def _datasets_are_known(cls, datasets: tuple[str, ...]) -> tuple[str, ...]:
        for name in datasets:
            _known_dataset(name)
        return datasets

    @field_validator("datasets", "shots", "adaptations")
    @classmethod
    def _nothing_twice(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"names something twice: {', '.join(map(str, values))}")
        return values

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """The data sets to measure on."""
        return self.datasets or tuple(DATASETS)

    @property
    def probes_unprojected(self) -> bool:
        """Whether a linear probe needs features before the tower's last projection."""
        return self.merge_projection and bool(self.shots) and "linear-probe" in self.adaptations


def _known_dataset(name: str) -> Dataset:
    try:
        return dataset(name)
    except InputError as error:
        raise ValueError(str(error)) from error
