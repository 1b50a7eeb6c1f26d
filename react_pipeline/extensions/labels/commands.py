"""The commands `react-pipeline labels ...`: predicted pictures as folders of classes, and the
labels that come back from them.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from react_pipeline.commands import Config, Domain, console, load_project
from react_pipeline.store import InputError, StoreWriteError, read_json_bounded, write_atomically

labels_app = typer.Typer(
    no_args_is_help=True, help="Predictions as folders of classes, and labels that come back."
)

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|]+")


@labels_app.command("export")
def export_labels(
    predictions: Annotated[Path, typer.Argument(help="A folder written by `predict`.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to create.")],
) -> None:
    """Copy predicted pictures into one folder per class, to correct them or to train on them."""
    _require_new(to)
    pictures, left_out = _read_run(predictions)
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for label, name in folder_names(pictures).items():
            (part / name).mkdir(parents=True)
            for number, picture in enumerate(pictures[label]):
                shutil.copyfile(picture, part / name / f"{number:06d}-{picture.name}")
        part.rename(to)
    except OSError as error:
        raise StoreWriteError(
            f"{error.filename or to}: {error.strerror or error}; make it readable, or free space"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    unknown = f"; {left_out:,} unknown ones are left out" if left_out else ""
    console.print(f"{to}: {sum(map(len, pictures.values())):,} pictures{unknown}")


@labels_app.command("import")
def import_labels(
    domain: Domain,
    source: Annotated[Path, typer.Argument(help="A folder with one folder of pictures per class.")],
    to: Annotated[Path, typer.Option("--to", help="The table to write.")] = Path("labels.csv"),
    config: Config = None,
) -> None:
    """Turn folders of classes into a table that a domain is evaluated on."""
    project = load_project(config, [domain])
    _require_new(to)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name one with a folder per class")
    from react_pipeline.labelled import read_folder

    images, _ = read_folder(source, project.domain(domain))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "class"])
    root = source.resolve()
    writer.writerows((root / path, label) for path, label in images.to_numpy())
    write_atomically(to, text.getvalue())
    console.print(
        f"{to}: {len(images):,} labelled pictures; next, in the file of {domain}: "
        f"evaluation: {{name: corrected, kind: manifest, path: {to.resolve()}}}"
    )


def _require_new(to: Path) -> None:
    if to.exists():
        raise InputError(f"{to}: already exists; choose another --to")


def _read_run(folder: Path) -> tuple[Mapping[str, Sequence[Path]], int]:
    """Return the pictures of a finished run by class, and how many are `unknown`."""
    import pyarrow.parquet as pq  # not for `--help`

    from react_pipeline.extensions.predict import find_pictures
    from react_pipeline.use import UNKNOWN

    try:
        run = read_json_bounded(folder / "run.json")
        source, classes, column = run["source"], run["classes"], run.get("column", "path")
        table = pq.read_table(folder / "predictions.parquet", columns=["path", "predicted"])
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"{folder}: no finished run of `react-pipeline predict` ({error}); run it first"
        ) from error
    found, _ = find_pictures(source, column)
    files = {picture.name: picture.path for picture in found if picture.member is None}
    pictures: dict[str, list[Path]] = {}
    left_out = 0
    for name, label in zip(*(column.to_pylist() for column in table.columns), strict=True):
        path = files.get(name)
        if not isinstance(path, Path) or not path.is_file():
            raise InputError(
                f"{name}: no picture file of {source} any more; only predictions of files can be "
                "exported"
            )
        if label == UNKNOWN and UNKNOWN not in classes:
            left_out += 1
        else:
            pictures.setdefault(label, []).append(path)
    if not pictures:
        raise InputError(f"{folder}: no picture has a class; predict with a lower --threshold")
    return pictures, left_out


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Return a folder's name for each class: without separators, and no two alike but for their
    case.
    """
    names: dict[str, str] = {}
    used: set[str] = set()
    for label in sorted(labels):
        name = _UNSAFE.sub("-", label).strip(". ")[:80] or "class"
        while name.casefold() in used:
            name += "-"
        used.add(name.casefold())
        names[label] = name
    return names
