"""Readers: labels that people gave in a tool, as pairs of file name and class name.

Does not belong here: matching them with a domain's classes (`labelled`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.extensions.labels.writers import COCO_FILE, FIFTYONE_FILE
from react_pipeline.store import InputError, read_json_bounded

MAX_BYTES = 1 << 30
"""A larger file of labels is refused: it is read whole."""

Labelled = Iterator[tuple[Path, str]]


def read_coco(path: Path) -> Labelled:
    """COCO's annotations; several of one picture are labels that contradict each other unless
    equal.
    """
    file, root = _located(path, COCO_FILE)
    value = _read(file)
    names = {entry["id"]: entry["name"] for entry in value["categories"]}
    files = {entry["id"]: entry["file_name"] for entry in value["images"]}
    folder = root / "images" if (root / "images").is_dir() else root
    for entry in value["annotations"]:
        yield folder / files[entry["image_id"]], names[entry["category_id"]]


def read_image_folder(path: Path) -> Labelled:
    """One folder a class, or `train`, `val` and `test` of such folders."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES and file.parent != path:
            yield file, file.parent.name


def read_label_studio(path: Path) -> Labelled:
    """Label Studio's JSON export: the last annotation of a task that was not cancelled; tasks
    without one are left out.
    """
    file, root = _located(path, "export.json")
    for task in _read(file):
        if "annotations" not in task:
            raise InputError(
                f"{file}: has no annotations; name what Label Studio exports as JSON (not JSON-MIN)"
            )
        results = [
            result["value"]["choices"][0]
            for annotation in task["annotations"]
            if not annotation.get("was_cancelled")
            for result in annotation["result"]
            if result["type"] == "choices"
        ]
        if results:
            yield root / "images" / _file_name(task["data"]["image"]), results[-1]


def read_fiftyone(path: Path) -> Labelled:
    """FiftyOne's `FiftyOneImageClassificationDataset`."""
    file, root = _located(path, FIFTYONE_FILE)
    value = _read(file)
    files = {image.stem: image for image in sorted((root / "data").iterdir())}
    for stem, target in value["labels"].items():
        label = target["label"] if isinstance(target, dict) else target
        if label is not None:
            name = value["classes"][label] if isinstance(label, int) else label
            yield files[Path(stem).stem if stem not in files else stem], name


READERS: Mapping[str, Callable[[Path], Labelled]] = {
    "coco": read_coco,
    "fiftyone": read_fiftyone,
    "imagefolder": read_image_folder,
    "label-studio": read_label_studio,
    "yolo": read_image_folder,
}


def read_labels(form: str, path: Path) -> tuple[dict[Path, str], list[Path]]:
    """The label of each picture that is there, and the pictures with labels that contradict each
    other.

    Raises:
        InputError: If the file is not of this form, or a picture is missing.
    """
    labels: dict[Path, str] = {}
    contradicted: set[Path] = set()
    try:
        for picture, label in READERS[form](path):
            if labels.setdefault(picture, str(label)) != str(label):
                contradicted.add(picture)
    except (KeyError, IndexError, TypeError, AttributeError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not labels in the form {form} ({type(error).__name__}: {error}); export them "
            "again, or name another --format"
        ) from error
    missing = [str(picture) for picture in labels if not picture.is_file()]
    if missing:
        raise InputError(
            f"{path}: {len(missing):,} of its pictures are not there, such as {missing[0]}; put "
            "them there, or leave them out of the export"
        )
    if not labels:
        raise InputError(f"{path}: holds no label")
    for picture in contradicted:
        del labels[picture]
    return labels, sorted(contradicted)


def _located(path: Path, name: str) -> tuple[Path, Path]:
    """The file of labels, `name` if the path is a folder, and the folder that it belongs to."""
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    return file, file.parent


def _read(file: Path) -> Any:
    return read_json_bounded(file, MAX_BYTES)


def _file_name(url: str) -> str:
    """The name of the picture that a task shows: of a local file, an upload or a web address."""
    parts = urlsplit(url)
    local = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    return Path(local).name
