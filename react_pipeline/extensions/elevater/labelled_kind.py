"""The test images of a data set, as a kind of labelled images; every command loads this module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.labelled import LabelledKind, Unavailable, described, require_folder
from react_pipeline.project import Files
from react_pipeline.settings import DomainConfig, EvaluationSetConfig
from react_pipeline.store import InputError

from .datasets import dataset

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image


class TestImages(LabelledKind):
    """The test images of one data set, read in place from archives too."""

    name = "elevater"
    fields = ("path", "dataset")
    are_files = False

    def problem(self, evaluation: EvaluationSetConfig) -> str:
        """A data set that is unknown, or whose images have several classes."""
        try:
            entry = dataset(str(evaluation.dataset))
        except InputError as error:
            return str(error)
        if entry.multilabel:
            return (
                f"{entry.name!r}: its images have several classes, so top-1 means nothing; "
                "`benchmark_results` measures it"
            )
        return ""

    def squash(self, evaluation: EvaluationSetConfig) -> bool:
        """As the benchmark does for one data set."""
        return dataset(str(evaluation.dataset)).squash

    def outside(self, evaluation: EvaluationSetConfig) -> Files:
        """Nothing: the folder holds all data sets, which are too many files to look at."""
        return Files(complete=False)

    def images(
        self, evaluation: EvaluationSetConfig, domain: DomainConfig
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The test images of the data set, with the domain's label of each class."""
        from .evaluation_images import list_images

        root = require_folder(evaluation)
        name = str(evaluation.dataset)
        try:
            return list_images(root, name, domain), {"dataset": name}
        except Unavailable as error:
            raise Unavailable(f"{described(evaluation)}: {error.reason}") from error

    def read(self, root: Path, name: str) -> bytes:
        """The bytes of an image; errors as of `evaluation_images.read_image`."""
        from .evaluation_images import read_image

        return read_image(root, name)

    def decode(self, data: bytes, max_pixels: int, *, lazy: bool = False) -> Image.Image:
        """As in the benchmark, what is there of a truncated file."""
        from react_pipeline.corpus import decode_what_is_there

        return decode_what_is_there(data, max_pixels)[0]
