"""The test images of a data set, as a kind of labelled images; every command loads this module."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from react_pipeline.labelled import Unavailable, described, require_folder
from react_pipeline.settings import DomainConfig, EvaluationSetConfig
from react_pipeline.store import InputError

from .datasets import Dataset, dataset
from .settings import require_known

if TYPE_CHECKING:
    import pandas as pd

    from .images import LabelledImages


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
        rows = [
            (f"{name}/{number}/{location}", labels[int(label)])
            for number, (location, label) in enumerate(
                zip(images.locations, images.labels, strict=True)
            )
        ]
        return pd.DataFrame(rows, columns=["path", "class"]), {"dataset": name}

    @classmethod
    def read(cls, root: Path, name: str) -> bytes:
        """Read an image that `images` named.

        Raises:
            InputError: If the data set or the image is gone, or another image has its place now.
        """
        data_set, number, location = name.split("/", 2)
        images = _test_images(root, data_set)
        if images.locations[int(number) : int(number) + 1] != (location,):
            raise InputError(f"{root}/{name}: the data set changed; rematerialize `evaluation_set`")
        return images.read(int(number))


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
