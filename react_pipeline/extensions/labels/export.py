"""Export: the pictures of a `predict` run in one folder per predicted class."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq

from react_pipeline.extensions.predict import find_pictures
from react_pipeline.store import InputError, StoreWriteError, read_json_bounded
from react_pipeline.use import UNKNOWN

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|]+")


@dataclass(frozen=True)
class Exported:
    """How many pictures were written, and how many had no class."""

    written: int
    left_out: int


def export_predictions(folder: Path, to: Path) -> Exported:
    """Copy the pictures of a finished run into a new folder, with a folder per class, as
    torchvision's ImageFolder and Hugging Face's `imagefolder` read it.

    Raises:
        InputError: If the run is not there or not finished, the pictures are no files any more, or
            `to` is there.
        StoreWriteError: If the disk refuses it; nothing is left then.
    """
    if to.exists():
        raise InputError(f"{to}: already exists; choose another --to")
    pictures, left_out = _read_run(folder)
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for label, name in folder_names(pictures).items():
            _copy(pictures[label], part / name)
        part.rename(to)
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or to}: {error.strerror or error}; make it readable, or free space"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(sum(map(len, pictures.values())), left_out)


def _read_run(folder: Path) -> tuple[Mapping[str, Sequence[Path]], int]:
    """The pictures of a finished run by class, and how many are `unknown`.

    Raises:
        InputError: If the run is not there or not finished, or its pictures are no files any more.
    """
    try:
        run = read_json_bounded(folder / "run.json")
        table = pq.read_table(folder / "predictions.parquet", columns=["path", "predicted"])
        source, classes = run["source"], run["classes"]
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"{folder}: no finished run of `react-pipeline predict` ({error}); run it first"
        ) from error
    files = {picture.name: picture for picture in find_pictures(source)[0]}
    pictures: dict[str, list[Path]] = {}
    left_out = 0
    for name, label in zip(*(column.to_pylist() for column in table.columns), strict=True):
        picture = files.get(name)
        if picture is None or not isinstance(picture.path, Path) or picture.member:
            raise InputError(
                f"{name}: no picture file of {source} any more; only predictions of files can be "
                "exported"
            )
        if label == UNKNOWN and UNKNOWN not in classes:
            left_out += 1
        else:
            pictures.setdefault(label, []).append(picture.path)
    if not pictures:
        raise InputError(f"{folder}: no picture has a class; predict with a lower --threshold")
    return pictures, left_out


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


def _copy(pictures: Sequence[Path], folder: Path) -> None:
    """Copy pictures under names that differ."""
    folder.mkdir(parents=True)
    used: set[str] = set()
    for picture in pictures:
        name = picture.name
        number = 1
        while name.casefold() in used:
            number += 1
            name = f"{picture.stem}-{number}{picture.suffix}"
        used.add(name.casefold())
        shutil.copyfile(picture, folder / name)
