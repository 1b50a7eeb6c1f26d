"""The layout of clip-benchmark's tar shards; members are read by their offsets, nothing is
extracted.

That is `ROOT/<data set>/<split>/N.tar` with `nshards.txt`, and `classnames.txt` next to the splits.
A sample is an image and `.cls` (a class id) or, in a multilabel set, `.npy` (a row of zeros and
ones).
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from react_pipeline.corpus import Sample, index_shard
from react_pipeline.extensions.predict import Picture
from react_pipeline.labelled import list_problems
from react_pipeline.store import CorpusError, InputError

from .datasets import Dataset
from .images import Listing, read_lines, read_picture

_MOST_LABEL_BYTES = 1 << 20


def list_shards(root: Path, entry: Dataset, split: str) -> Listing | None:
    """List a split of tar shards; None if there are none.

    Raises:
        Unavailable: If `nshards.txt` or `classnames.txt` is missing.
        InputError: If a shard is missing or damaged, or a sample lacks image or label.
    """
    folder = root / entry.name / split
    if not any(folder.glob("*.tar")):
        return None
    shards = _shards(folder)
    names_file = root / entry.name / "classnames.txt"
    names = read_lines(names_file)
    pictures, labels, problems = [], [], []
    for path in shards:
        for sample in _samples(path):
            name = f"{path.relative_to(root).as_posix()}@{sample.key}"
            label = _label(path, sample, entry)
            if sample.image is None or label is None:
                lacking = "image" if sample.image is None else "valid label"
                problems.append(f"{name}: has no {lacking}")
            else:
                pictures.append(Picture(name, path, sample.image))
                labels.append(label)
    if problems:
        raise InputError(f"{folder}: {len(problems)} bad samples\n{list_problems(problems)}")
    return Listing("webdataset", pictures, labels, names, names_file)


def _shards(folder: Path) -> list[Path]:
    lines = read_lines(folder / "nshards.txt")
    if len(lines) != 1 or not re.fullmatch("[1-9][0-9]{0,5}", lines[0]):
        raise InputError(f"{folder / 'nshards.txt'}: must hold one number, that of the shards")
    shards = [folder / f"{number}.tar" for number in range(int(lines[0]))]
    if missing := [path.name for path in shards if not path.is_file()]:
        raise InputError(
            f"{folder}: nshards.txt says {len(shards)}, but these are missing\n{list_problems(missing)}"
        )
    return shards


def _samples(path: Path) -> list[Sample]:
    try:
        index = index_shard(path)
    except CorpusError as error:
        # Its text ends with advice for a corpus.
        raise InputError(f"{str(error).split(';')[0]}; copy the shard again") from error
    if index.refused:
        refused = [f"{name}: {why}" for name, why in index.refused]
        raise InputError(f"{path}: members refused\n{list_problems(refused)}")
    return index.samples


def _label(path: Path, sample: Sample, entry: Dataset) -> Any:
    """Return the class id or the row of a sample; None if it has no valid one."""
    member = sample.members.get("npy" if entry.multilabel else "cls")
    if member is None or member.size_bytes > _MOST_LABEL_BYTES:
        return None
    data = read_picture(Picture(sample.key, path, member))
    try:
        if not entry.multilabel:
            label = int(data.decode("ascii"))
            return label if 0 <= label < entry.num_classes else None
        row = np.load(io.BytesIO(data), allow_pickle=False)
    # numpy raises nearly anything for hostile bytes.
    except Exception:
        return None
    valid = row.shape == (entry.num_classes,) and np.isin(row, (0, 1)).all()
    return row.astype(np.uint8) if valid else None
