"""Predicted pictures as links in one folder per class.

Belongs here: making links without touching anything that is there. Does not belong here:
predicting.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq

from react_pipeline.extensions.predict.pictures import Picture
from react_pipeline.store import InputError

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|]+")


def sort_into(folder: Path, predictions: Path, pictures: Mapping[str, Picture]) -> dict[str, int]:
    """Make a symbolic link to each picture in `folder/<predicted class>/`; what is there is never
    replaced.

    A second run makes no second link. Where a name is taken by another picture a number is added.

    Args:
        predictions: `predictions.parquet`.
        pictures: By name.

    Returns:
        How many links were made, and how many there were, as `made` and `present`.

    Raises:
        InputError: If pictures are no files of their own (shards, URLs), or links cannot be made
            there, as where the folder of a class is a link or a file.
    """
    if others := next((name for name, picture in pictures.items() if not picture.is_file), None):
        raise InputError(
            f"{others}: no file of its own, so it cannot be linked; --sort-into needs image files"
        )
    table = pq.read_table(predictions, columns=["path", "predicted"])
    by_class: dict[str, list[str]] = {}
    for path, label in zip(*(column.to_pylist() for column in table.columns), strict=True):
        by_class.setdefault(label, []).append(path)
    counts: Counter[str] = Counter(made=0, present=0)
    try:
        for label, name in folder_names(by_class).items():
            directory = _folder_of_class(folder / name)
            # Links in the path of a picture are kept as they are.
            counts.update(
                _link(Path.cwd() / str(pictures[path].path), directory) for path in by_class[label]
            )
    except OSError as error:
        raise InputError(
            f"{folder}: {error.filename}: {error.strerror}; choose another --sort-into"
        ) from error
    return dict(counts)


def _folder_of_class(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    if directory.is_symlink():
        raise InputError(f"{directory}: is a link; choose another --sort-into")
    return directory


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A name of a folder for each class: without separators, and no two alike, not even but for
    their case.
    """
    names: dict[str, str] = {}
    for label in sorted(labels):
        plain = _UNSAFE.sub("-", label).strip(". ")[:80] or "class"
        used = {name.casefold() for name in names.values()}
        tries = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        names[label] = next(name for name in tries if name.casefold() not in used)
    return names


def _link(picture: Path, directory: Path) -> str:
    for number in count(1):
        name = picture.name if number == 1 else f"{picture.stem}-{number}{picture.suffix}"
        link = directory / name
        try:
            link.symlink_to(picture)
            return "made"
        except FileExistsError:
            if link.is_symlink() and link.readlink() == picture:
                return "present"
    raise AssertionError("count() has no end")
