"""Configuration of what is measured: a domain's labelled images, and ELEVATER's data sets.

Belongs here: the fields, their defaults and rules; `config` holds the sections that they are part of. Does not belong
here: reading the images (`labelled`, `elevater`).
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from react_pipeline.settings.datasets import DATASETS, Dataset, dataset
from react_pipeline.settings.training import Name, Section
from react_pipeline.store import InputError


class EvaluationSetConfig(Section):
    """A labelled set of images, used to evaluate and to keep its images out of the retrieved set.

    Attributes:
        name: How results name it.
        kind: `folder` (one subfolder a class), `manifest` (CSV or parquet with columns path, class), `elevater` (the
            test images of one of ELEVATER's data sets), or `demo`.
        path: The folder, the manifest, or the root of ELEVATER's data; not for `demo`.
        dataset: Only for `elevater`: which data set; not one whose images have several classes.
    """

    name: Name
    kind: Literal["folder", "manifest", "elevater", "demo"]
    path: Path | None = None
    dataset: str | None = None

    @model_validator(mode="after")
    def _path_is_given(self) -> Self:
        if (self.path is None) != (self.kind == "demo"):
            raise ValueError("`path` belongs to the kinds `folder`, `manifest` and `elevater`, and only to them")
        if (self.dataset is None) != (self.kind != "elevater"):
            raise ValueError("`dataset` belongs to the kind `elevater`, and only to it")
        if self.dataset is not None and _known_dataset(self.dataset).multilabel:
            raise ValueError(
                f"{self.dataset!r}: its images have several classes, so top-1 means nothing; `benchmark_results` "
                "measures it"
            )
        return self

    @property
    def squash(self) -> bool:
        """Whether images are squashed to a square rather than cropped, as the benchmark does for one data set."""
        return self.dataset is not None and _known_dataset(self.dataset).squash


class ElevaterConfig(Section):
    """What is measured on ELEVATER's data sets.

    Attributes:
        root: Folder of the data (`react-pipeline elevater check`); unset, nothing is measured.
        datasets: Names in the benchmark's table; empty: all 20.
        shots: Training images a class, of 5, 20, 50 and -1 (all of them); empty: zero-shot only.
        adaptations: What is trained on the shots: a head on fixed features, or head and image tower.
        seeds: Samples of each number of shots, from seed 0; full shot is measured once.
        head_start: Where a head starts: at the zero-shot head (`text`), or at random.
        merge_projection: Projection and head train as one matrix, on features before the tower's last projection.
    """

    root: Path | None = None
    datasets: tuple[str, ...] = ()
    shots: tuple[Literal[5, 20, 50, -1], ...] = ()
    adaptations: tuple[Literal["linear-probe", "fine-tune"], ...] = Field(default=("linear-probe",), min_length=1)
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
