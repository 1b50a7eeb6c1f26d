"""A report of which data sets are present, complete and valid.

No model is loaded; torch only if torchvision's own layout of some data set is found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.labelled import Unavailable
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import InputError

from .datasets import DATASETS, IMAGENET, Dataset, dataset
from .images import LabelledImages
from .readers import read_dataset

_DECODED_PER_SPLIT = 8


@dataclass(frozen=True)
class DatasetReport:
    """What was found of one data set.

    Attributes:
        state: `complete` (every split with its official number of images), `partial` (fewer),
            `unavailable` (nothing), `wrong` (something there cannot be used).
        found: Number of images of the splits that are there.
        notes: What else a user should know.
    """

    name: str
    state: Literal["complete", "partial", "unavailable", "wrong"]
    found: dict[str, int]
    expected: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_root(root: Path, names: Iterable[str] | None = None) -> list[DatasetReport]:
    """Look for every data set below `root`. Lists are read in full; a few images of each split are
    decoded.

    Args:
        names: Data sets to look for; unset, all 20 and ImageNet-1K.

    Raises:
        InputError: If there is no such folder, or a name is unknown.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    entries = [*DATASETS.values(), IMAGENET] if names is None else [dataset(name) for name in names]
    return [_check(root, entry) for entry in entries]


def _check(root: Path, entry: Dataset) -> DatasetReport:
    found = {}
    problems = []
    notes: list[str] = []
    wrong = False
    for split, expected in entry.sizes.items():
        try:
            images = read_dataset(root, entry.name, split)
            found[split] = len(images)
            notes += [*images.notes, *_decode_some(images)]
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
    return DatasetReport(entry.name, state, found, dict(entry.sizes), tuple(problems), tuple(notes))


def _decode_some(images: LabelledImages) -> list[str]:
    """Decode a few; truncated files are used as far as they decode, so they are only noted."""
    truncated = []
    for position in np.unique(np.linspace(0, len(images) - 1, _DECODED_PER_SPLIT).astype(int)):
        name = images.locations[position]
        try:
            if decode_apart(images.read(int(position)), MAX_PIXELS, is_lenient=True)[1]:
                truncated.append(f"{name}: truncated; the decodable part is used")
        except BadImage as error:
            raise InputError(f"{name}: no usable image ({error})") from error
    return truncated
