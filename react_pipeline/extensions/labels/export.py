"""Export: the pictures of a `predict` run with their predicted classes, in another tool's form."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from react_pipeline.extensions.labels.writers import WRITERS, LabelledPicture, Predictions
from react_pipeline.extensions.predict import find_pictures
from react_pipeline.store import InputError, StoreWriteError, read_json_bounded
from react_pipeline.use import UNKNOWN


@dataclass(frozen=True)
class Exported:
    """How many pictures were written, and how many had no class."""

    written: int
    left_out: int


def export_predictions(folder: Path, form: str, to: Path) -> Exported:
    """Write the pictures of a finished run and their classes into a new folder.

    Raises:
        InputError: If the run is not there or not finished, the pictures are no files any more, or
            `to` is there.
        StoreWriteError: If the disk refuses it; nothing is left then.
    """
    if form not in WRITERS:
        raise InputError(f"--format {form!r}: choose from {', '.join(WRITERS)}")
    if to.exists():
        raise InputError(f"{to}: already exists; choose another --to")
    predictions, left_out = read_run(folder)
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        WRITERS[form](replace(predictions, folder=to.name), part)
        part.rename(to)
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or to}: {error.strerror or error}; make it readable, or free space"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(len(predictions.pictures), left_out)


def read_run(folder: Path) -> tuple[Predictions, int]:
    """The predictions of a finished run, and how many pictures are `unknown`.

    Raises:
        InputError: If the run is not there or not finished, or its pictures are no files any more.
    """
    try:
        run = read_json_bounded(folder / "run.json")
        table = pq.read_table(
            folder / "predictions.parquet", columns=["path", "predicted", "confidence", "margin"]
        )
        source, model, classes = run["source"], run["model"], run["classes"]
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"{folder}: no finished run of `react-pipeline predict` ({error}); run it first"
        ) from error
    files = {picture.name: picture for picture in find_pictures(source)[0]}
    labelled = []
    left_out = 0
    for name, label, confidence, margin in zip(
        *(table[column].to_pylist() for column in table.column_names), strict=True
    ):
        picture = files.get(name)
        if picture is None or not isinstance(picture.path, Path) or not picture.is_file:
            raise InputError(
                f"{name}: no picture file of {source} any more; only predictions of files can be "
                "exported"
            )
        if label == UNKNOWN and UNKNOWN not in classes:
            left_out += 1
        else:
            labelled.append(LabelledPicture(picture.path, label, confidence, margin))
    if not labelled:
        raise InputError(f"{folder}: no picture has a class; predict with a lower --threshold")
    return Predictions(folder.name, model, classes, labelled), left_out
