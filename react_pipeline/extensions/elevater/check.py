"""A report of which data sets are present, complete and valid.

No model is loaded; torch only if torchvision's own layout of some data set is found.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.labelled import Unavailable
from react_pipeline.pages import markdown_table
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import InputError

from .datasets import DATASETS, IMAGENET, Dataset, dataset
from .images import LabelledImages
from .readers import read_dataset

_DECODED_PER_SPLIT = 8


@dataclass(frozen=True)
class SplitReport:
    """A split: images found (None: not there) and the official number."""

    split: str
    found: int | None
    expected: int
    layout: str | None = None

    def __str__(self) -> str:
        if self.found is None:
            return "missing"
        of_all = "" if self.found == self.expected else f" of {self.expected:,}"
        return f"{self.found:,}{of_all}"


@dataclass(frozen=True)
class DatasetReport:
    """What was found of one data set.

    Attributes:
        state: `complete` (every split with its official number of images), `partial` (fewer),
            `unavailable` (nothing), `wrong` (something there cannot be used).
        splits: Of the benchmark, in the order train, val, test.
        notes: What else a user should know.
    """

    name: str
    state: Literal["complete", "partial", "unavailable", "wrong"]
    splits: tuple[SplitReport, ...]
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


def report_lines(reports: Sequence[DatasetReport]) -> list[str]:
    """Return the reports as a table in Markdown, then problems and notes of each data set."""
    names = ("train", "val", "test")
    rows = []
    for report in reports:
        cells = {split.split: str(split) for split in report.splits}
        rows.append([report.name, report.state, *(cells.get(name, "–") for name in names)])
    states = sorted(Counter(report.state for report in reports).items())
    lines = markdown_table(["data set", "state", *names], rows).splitlines()
    lines += ["", ", ".join(f"{n} {state}" for state, n in states) + f" of {len(reports)}"]
    for report in reports:
        texts = [*report.problems, *(f"note: {note}" for note in report.notes)]
        if texts:
            lines += ["", f"{report.name} ({report.state})"]
            lines += [f"  {line}" for text in texts for line in text.split("\n")]
    return lines


def report_json(reports: Sequence[DatasetReport]) -> str:
    """Return the reports as a JSON list."""
    return json.dumps([asdict(report) for report in reports], indent=2)


def _check(root: Path, entry: Dataset) -> DatasetReport:
    splits = []
    problems = []
    notes: list[str] = []
    state: Literal["complete", "partial", "unavailable", "wrong"] = "complete"
    for split, expected in entry.sizes.items():
        report = SplitReport(split, None, expected)
        try:
            images = read_dataset(root, entry.name, split)
            report = SplitReport(split, len(images), expected, images.layout)
            notes += [*images.notes, *_decode_some(images)]
            if len(images) != expected:
                problems.append(
                    f"split {split}: {len(images):,} images, officially {expected:,}; get it from "
                    f"{entry.homepage}"
                )
        except Unavailable as error:
            problems.append(error.reason)
        except InputError as error:
            state = "wrong"
            problems.append(str(error))
        splits.append(report)
    if problems and state != "wrong":
        state = "partial" if any(split.found is not None for split in splits) else "unavailable"
    return DatasetReport(entry.name, state, tuple(splits), tuple(problems), tuple(notes))


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
