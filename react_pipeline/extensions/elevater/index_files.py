"""Reader of a local ELEVATER copy: its registry (`vision_datasets.json`) and IRIS and COCO index
files, zips in place.

They are read here rather than by the package vision-datasets: it brings a cloud vendor's client
libraries, and it does not detect the faults that this reader must refuse.
"""

from collections import Counter, defaultdict
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from react_pipeline.labelled import Unavailable, lines_of
from react_pipeline.store import InputError

from .datasets import Dataset, read_data
from .images import LabelledImages, labelled_images
from .listing import read_json, read_lines, read_text, require_images
from .names import join_names
from .sources import FileSource, is_inside

REGISTRY = "vision_datasets.json"
LAYOUT = "ELEVATER"

_Model = TypeVar("_Model", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class SplitFiles(_Record):
    """The index of a split, and how many images the registry says it has."""

    index_path: str
    num_images: int | None = None


class RegistryEntry(_Record):
    """What the registry says of a data set; paths are relative to `root_folder`, and that to the
    root.
    """

    name: str
    type: str
    root_folder: str
    version: int = 1
    format: str | None = None
    labelmap: str | None = None
    num_classes: int | None = None
    train: SplitFiles | None = None
    val: SplitFiles | None = None
    test: SplitFiles | None = None


class _CocoImage(_Record):
    id: int
    file_name: str
    zip_file: str | None = None


class _CocoAnnotation(_Record):
    image_id: int
    category_id: int


class _CocoCategory(_Record):
    id: int
    name: str | None = None


class _Coco(_Record):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory]


class _Index(NamedTuple):
    locations: list[str]
    labels: list[list[int]]


def read_elevater(root: Path, entry: Dataset, split: str) -> LabelledImages | None:
    """Read a split of a local ELEVATER copy; None if the root holds none of this data set.

    The registry is `vision_datasets.json` at the root; without it, or for a data set that it lacks,
    the folder and file names of the published data are tried.

    Raises:
        Unavailable: If the index of the split or an archive that it names is missing.
        InputError: If anything is wrong with what is there.
    """
    located = _find(root, entry)
    if located is None:
        return None
    folder, registered = located
    files: SplitFiles | None = getattr(registered, split)
    if files is None:
        raise Unavailable(f"{root / REGISTRY} has no split {split!r} of {entry.name}")
    if ("multilabel" in registered.type) != entry.multilabel:
        raise InputError(
            f"{root / REGISTRY}: {entry.name}.type: {registered.type!r} contradicts the benchmark"
        )
    for field, path in (("index_path", files.index_path), ("labelmap", registered.labelmap)):
        if path is not None and not is_inside(path):
            raise InputError(
                f"{root / REGISTRY}: {entry.name}.{field}: {path!r} is outside {folder}"
            )
    where = folder / files.index_path
    if registered.format == "coco":
        index, names = _read_coco(where)
    elif registered.format in (None, "iris"):
        index = _read_iris(where)
        names = _labelmap(folder, registered, entry)
    else:
        raise InputError(
            f"{root / REGISTRY}: {entry.name}.format: {registered.format!r} is neither iris nor "
            "coco"
        )
    labels_from = (
        folder / registered.labelmap
        if registered.labelmap and registered.format != "coco"
        else where
    )
    order, notes = join_names(entry, names, labels_from, root, in_elevaters_order=True)
    labels = _labels(entry, index, len(names), where)
    require_images(folder, index.locations, where)
    if files.num_images is not None and len(index.locations) != files.num_images:
        raise InputError(
            f"{where}: {len(index.locations):,} images, the registry says {files.num_images:,}; "
            "copy the index again"
        )
    if repeats := len(index.locations) - len(set(index.locations)):
        notes = (
            *notes,
            f"{where}: {repeats} images are listed again, with the same label; they count each "
            "time",
        )
    source = FileSource(folder, tuple(index.locations))
    return labelled_images(entry, split, index.locations, labels, order, LAYOUT, source, notes)


def _find(root: Path, entry: Dataset) -> tuple[Path, RegistryEntry] | None:
    path = root / REGISTRY
    registry = read_json(path) if path.is_file() else []
    if not isinstance(registry, list):
        raise InputError(f"{path}: is not a list of data sets; copy it again")
    versions = [
        _validate(RegistryEntry, version, path, f"{entry.name}.")
        for version in registry
        # Of other data sets' entries, which may be anything, nothing is demanded.
        if isinstance(version, dict) and version.get("name") == entry.name
    ]
    if versions:
        newest = max(versions, key=attrgetter("version"))
        if not is_inside(newest.root_folder):
            raise InputError(
                f"{path}: {entry.name}.root_folder: {newest.root_folder!r} is outside {root}"
            )
        if not (root / newest.root_folder).is_dir():
            raise Unavailable(f"{path} names the folder {newest.root_folder}, which is missing")
        return root / newest.root_folder, newest
    layout = read_data("layouts.json").get(entry.name)
    if layout is not None:
        published = RegistryEntry.model_validate(layout)
        for folder in (root / published.root_folder, root / Path(published.root_folder).name):
            if folder.is_dir():
                return folder, published
    return None


def _read_iris(path: Path) -> _Index:
    locations = []
    labels = []
    problems = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        text = line.strip()
        if not text:
            continue
        # Paths may hold spaces, so the last one parts path and labels.
        location, _, ids = text.rpartition(" ")
        if not location:
            location = text
            ids = ""
        try:
            labels.append([int(label) for label in ids.split(",") if label.strip()])
        except ValueError:
            problems.append(f"line {number}: {ids!r} is not a list of label numbers")
        locations.append(location)
    if problems:
        raise InputError(f"{path}:\n{lines_of(problems)}")
    return _Index(locations, labels)


def _labelmap(folder: Path, registered: RegistryEntry, entry: Dataset) -> list[str]:
    if registered.labelmap is not None and (folder / registered.labelmap).is_file():
        return read_lines(folder / registered.labelmap)
    count = entry.num_classes if registered.num_classes is None else registered.num_classes
    return [str(number) for number in range(min(max(count, 0), 100_000))]


def _read_coco(path: Path) -> tuple[_Index, list[str]]:
    coco = _validate(_Coco, read_json(path), path)
    categories = sorted(coco.categories, key=lambda category: category.id)
    ranks = {category.id: rank for rank, category in enumerate(categories)}
    images = sorted(coco.images, key=lambda image: image.id)
    times = Counter(image.id for image in images)
    problems = [
        f"image id {image_id} occurs twice" for image_id, count in times.items() if count > 1
    ]
    if len(ranks) < len(categories):
        problems.append("two categories have the same id")
    labels = defaultdict[int, list[int]](list)
    for annotation in coco.annotations:
        if annotation.image_id not in times or annotation.category_id not in ranks:
            problems.append(
                f"annotation of image {annotation.image_id}, category {annotation.category_id}: "
                "unknown id"
            )
        else:
            labels[annotation.image_id].append(ranks[annotation.category_id])
    if problems:
        raise InputError(f"{path}:\n{lines_of(problems)}")
    locations = [
        f"{image.zip_file}@{image.file_name}" if image.zip_file else image.file_name
        for image in images
    ]
    names = [
        str(rank) if category.name is None else category.name
        for rank, category in enumerate(categories)
    ]
    return _Index(locations, [labels[image.id] for image in images]), names


def _labels(entry: Dataset, index: _Index, classes: int, where: Path) -> NDArray[Any]:
    problems = []
    first: dict[str, list[int]] = {}
    for location, ids in zip(index.locations, index.labels, strict=True):
        if wrong := [number for number in ids if not 0 <= number < classes]:
            problems.append(
                f"{location!r}: label {wrong[0]} is out of range, there are {classes} classes"
            )
        elif not entry.multilabel and len(ids) != 1:
            problems.append(f"{location!r}: {len(ids)} labels, {entry.name} has one an image")
        elif first.setdefault(location, ids) != ids:
            problems.append(f"{location!r}: occurs again with another label")
    if problems:
        raise InputError(f"{where}: {len(problems)} images with wrong labels\n{lines_of(problems)}")
    if not index.locations:
        raise InputError(f"{where}: lists no image")
    if not entry.multilabel:
        return np.array([ids[0] for ids in index.labels], np.int64)
    labels = np.zeros((len(index.labels), classes), np.uint8)
    for row, ids in enumerate(index.labels):
        labels[row, ids] = 1
    return labels


def _validate(model: type[_Model], content: Any, path: Path, within: str = "") -> _Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [
            f"{within}{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise InputError(f"{path}:\n{lines_of(problems)}") from error
