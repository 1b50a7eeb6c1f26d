"""The test images of a data set, as a kind of labelled images; every command loads this module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from react_pipeline.labelled import Unavailable, described, require_folder
from react_pipeline.settings import DomainConfig, EvaluationSetConfig
from react_pipeline.store import InputError

from .datasets import dataset

if TYPE_CHECKING:
    import pandas as pd


class TestImages(EvaluationSetConfig):
    """The test images of one data set, read in place from archives too."""

    kind: Literal["elevater"] = "elevater"
    path: Path
    dataset: str

    is_watched: ClassVar[bool] = False
    are_files: ClassVar[bool] = False
    is_lenient: ClassVar[bool] = True  # as in the benchmark

    @field_validator("dataset")
    @classmethod
    def _has_one_class_an_image(cls, name: str) -> str:
        try:
            entry = dataset(name)
        except InputError as error:
            raise ValueError(str(error)) from error
        if entry.multilabel:
            raise ValueError(
                f"{entry.name!r}: its images have several classes, so top-1 means nothing; "
                "`benchmark_results` measures it"
            )
        return name

    @property
    def squash(self) -> bool:
        """As the benchmark does for one data set."""
        return dataset(self.dataset).squash

    def files(self) -> tuple[str, ...]:
        """None: the folder holds all data sets, which are too many files to look at."""
        return ()

    def root(self) -> Path:
        """The folder of all data sets."""
        return self.path.resolve()

    def images(self, domain: DomainConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The test images of the data set, with the domain's label of each class."""
        from .evaluation_images import list_images

        root = require_folder(self, self.path)
        try:
            return list_images(root, self.dataset, domain), {"dataset": self.dataset}
        except Unavailable as error:
            raise Unavailable(f"{described(self)}: {error.reason}") from error

    @classmethod
    def read(cls, root: Path, name: str) -> bytes:
        """The bytes of an image; errors as of `evaluation_images.read_image`."""
        from .evaluation_images import read_image

        return read_image(root, name)
