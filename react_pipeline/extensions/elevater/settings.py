"""Configuration of the benchmark: the section `elevater` of `pipeline.yaml` with the experiments
that it asks for, and the test images of a data set as a kind of labelled images.

Every command loads this module. Does not belong here: measuring (`measuring`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, field_validator

from react_pipeline.labelled import Unavailable, described, require_folder
from react_pipeline.settings import DomainConfig, EvaluationSetConfig, Section
from react_pipeline.store import InputError

from .datasets import DATASETS, Dataset, dataset

if TYPE_CHECKING:
    import pandas as pd

    from .images import LabelledImages

FULL = -1
"""`shots` where every training image is used."""

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


class TestImages(EvaluationSetConfig):
    """The test images of one data set, read in place from archives too."""

    kind: Literal["elevater"] = "elevater"
    path: Path
    dataset: str

    is_watched: ClassVar[bool] = False
    are_files: ClassVar[bool] = False

    @field_validator("dataset")
    @classmethod
    def _has_one_class_an_image(cls, name: str) -> str:
        require_known(name)
        if dataset(name).multilabel:
            raise ValueError(
                f"{name!r}: its images have several classes, so top-1 means nothing; "
                "`benchmark_results` measures it"
            )
        return name

    @property
    def squash(self) -> bool:
        """Return whether images are squashed, as the benchmark does for one data set."""
        return dataset(self.dataset).squash

    def files(self) -> tuple[str, ...]:
        """Return none: the folder holds all data sets, which are too many files to look at."""
        return ()

    def root(self) -> Path:
        """Return the folder of all data sets."""
        return self.path.resolve()

    def images(self, domain: DomainConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
        """List the test images in the order on disk, with the domain's label of each class. A path
        is `<data set>/<number>/<its own location>`.

        Raises:
            Unavailable: If the data set is not there.
            InputError: If it is wrong, or the domain lacks classes; it may have more.
        """
        import pandas as pd

        root, name = require_folder(self, self.path), self.dataset
        labels = _labels(dataset(name), domain)
        _test_images.cache_clear()  # lists that were read before may be those of other files
        try:
            images = _test_images(root, name)
        except Unavailable as error:
            raise Unavailable(f"{described(self)}: {error.reason}") from error
        listed = zip(images.pictures, images.labels, strict=True)
        rows = [
            (f"{name}/{number}/{picture.name}", labels[int(label)])
            for number, (picture, label) in enumerate(listed)
        ]
        return pd.DataFrame(rows, columns=["path", "class"]), {"dataset": name}

    @classmethod
    def read(cls, root: Path, name: str) -> bytes:
        """Read an image that `images` named.

        Raises:
            InputError: If the data set or the image is gone, or another image has its place now.
        """
        from .images import read_picture

        data_set, number, location = name.split("/", 2)
        for picture in _test_images(root, data_set).pictures[int(number) : int(number) + 1]:
            if picture.name == location:
                return read_picture(picture)
        raise InputError(f"{root}/{name}: the data set changed; rematerialize `evaluation_set`")


@lru_cache(maxsize=4)
def _test_images(root: Path, name: str) -> LabelledImages:
    # Reading the lists again for each image would take far longer than the image.
    from .readers import read_dataset

    return read_dataset(root, name, "test")


def _labels(entry: Dataset, domain: DomainConfig) -> list[str]:
    """Return the domain's label of each class, which the domain has under a name or a synonym."""
    from react_pipeline.labelled import list_problems, normal  # loads pandas

    by_name: dict[str, list[str]] = {}
    for domain_class in domain.classes:
        for text in (domain_class.name, *domain_class.synonyms):
            by_name.setdefault(normal(text), []).append(domain_class.label)
    found, lacking = [], []
    for names in entry.aliases:
        labels = next((by_name[normal(text)] for text in names if normal(text) in by_name), [])
        # Classes of one name, of which ImageNet has two pairs, are joined in their order.
        found.append(labels.pop(0) if len(labels) > 1 else "".join(labels))
        lacking += [] if labels or found[-1] else [names[0]]
    if lacking:
        raise InputError(
            f"domain {domain.slug!r} lacks {len(lacking)} classes of {entry.name}\n"
            f"{list_problems(lacking)}"
        )
    return found
