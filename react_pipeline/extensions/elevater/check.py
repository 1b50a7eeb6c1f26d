"""A report of which data sets are present, complete and valid.

No model is loaded; torch only if torchvision's own layout of some data set is found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.labelled import Unavailable
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import InputError

from .datasets import DATASETS, IMAGENET, Dataset
from .images import LabelledImages
from .readers import read_dataset

_DECODED_PER_SPLIT = 8


@dataclass(frozen=True)
class DatasetReport:
    """The finding on one data set.

    Attributes:
        state: `complete` (every split with its official number of images), `partial` (fewer),
            `unavailable` (nothing), `wrong` (something there cannot be used).
        found: Number of images of the splits that are there.
    """

    entry: Dataset
    state: Literal["complete", "partial", "unavailable", "wrong"]
    found: dict[str, int]
    problems: tuple[str, ...]


def check_root(root: Path) -> Iterator[DatasetReport]:
    """Look for every data set below `root`. Lists are read in full; a few images of each split are
    decoded.

    Raises:
        InputError: If there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    for entry in (*DATASETS.values(), IMAGENET):
        yield _check(root, entry)


def _check(root: Path, entry: Dataset) -> DatasetReport:
    found = {}
    problems = []
    wrong = False
    for split, expected in entry.sizes.items():
        try:
            images = read_dataset(root, entry.name, split)
            found[split] = len(images)
            _decode_some(images)
            if len(images) != expected:
                problems.append(
                    f"split {split}: {len(images):,} images, officially {expected:,}; get it from "
                    f"{entry.homepage}"
                )
        except Unavailable as error:
            problems.append(error.reason)
        except InputError as error:
            wrong = True
            problems.append(str(error))
    state: Literal["complete", "partial", "unavailable", "wrong"] = "complete"
    if problems:
        state = "wrong" if wrong else "partial" if found else "unavailable"
    return DatasetReport(entry, state, found, tuple(problems))


def _decode_some(images: LabelledImages) -> None:
    """Decode a few; truncated files are used as far as they decode."""
    for position in np.unique(np.linspace(0, len(images) - 1, _DECODED_PER_SPLIT).astype(int)):
        try:
            decode_apart(images.read(int(position)), MAX_PIXELS, is_lenient=True)
        except BadImage as error:
            raise InputError(f"{images.locations[position]}: no usable image ({error})") from error
