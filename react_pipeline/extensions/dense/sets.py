"""Images with boxes or label maps: COCO instances JSON, label PNGs of several encodings.

What is missing is `Unavailable`; what is wrong is an error that names file and field; boxes that
can be no object's are counted and left out. Does not belong here: the table of sets
(`settings`), measuring.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, FiniteFloat, model_validator

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.extensions.elevater import decode_picture, digests, read_form, read_lines
from react_pipeline.extensions.predict import Picture
from react_pipeline.labelled import Unavailable, list_problems, normal
from react_pipeline.project import escape_name
from react_pipeline.store import InputError, canonical_json

from .settings import IGNORED, DenseSet

BACKGROUND = "background"
"""A class of this name is none: its pixels are ignored."""


@dataclass(frozen=True)
class DenseImages:
    """The images of one set, with the names of its classes in the order of class ids.

    Attributes:
        pictures: Named by their place below the root.
        skipped: Number of boxes that were left out, by reason.
    """

    entry: DenseSet
    class_names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    skipped: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return len(self.pictures)

    def image(self, position: int, max_pixels: int) -> Image.Image:
        """Decode an image, RGB.

        Raises:
            InputError: If it is gone or cannot be decoded.
        """
        return decode_picture(self.pictures[position], max_pixels)

    def digest(self) -> str:
        """Return the SHA-256 over names and bytes of all images, their truth, and the classes."""
        files = [picture.name for picture in self.pictures], digests(self.pictures)
        parts = [self.entry.name, self.class_names, *files, self.truths()]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    def truths(self) -> Any:
        """Return what identifies the truth, as JSON."""
        raise NotImplementedError


@dataclass(frozen=True)
class BoxImages(DenseImages):
    """Images with boxes.

    Attributes:
        truth: As COCO's JSON, with the images in the order of `pictures`, ids as in the file, boxes
            cut to the image, and `categories` in the order of class ids.
    """

    truth: Mapping[str, Any]

    def id(self, position: int) -> int:
        """Return the id of an image in the file."""
        return int(self.truth["images"][position]["id"])

    def image(self, position: int, max_pixels: int) -> Image.Image:
        """Decode an image; an InputError too if it is of another size than the JSON says."""
        image = super().image(position, max_pixels)
        about = self.truth["images"][position]
        if image.size != (about["width"], about["height"]):
            raise InputError(
                f"{self.pictures[position].name}: is {image.width} x {image.height} px, and "
                f"`images` of {self.entry.truth} says {about['width']} x {about['height']}"
            )
        return image

    def truths(self) -> Any:
        """Return the boxes."""
        return self.truth


@dataclass(frozen=True)
class MapImages(DenseImages):
    """Images with label maps.

    Attributes:
        labels: The label maps.
        table: Class id of every pixel value, (256,) int64; -1 is not a value of the set.
    """

    labels: tuple[Picture, ...]
    table: NDArray[np.int64]

    def label_map(self, position: int, size: tuple[int, int]) -> NDArray[np.int64]:
        """Read class ids (H, W) of an image of this (width, height); `IGNORED` pixels are not
        counted.

        Raises:
            InputError: If the map cannot be read, has another size, or a value that is not a class.
        """
        problem = ""
        try:
            with Image.open(io.BytesIO(self.labels[position].read()), formats=("PNG",)) as opened:
                if opened.mode not in ("L", "P"):
                    problem = f"a label map has one channel of 8 bits, and this is {opened.mode}"
                elif opened.size != size:
                    problem = f"is {opened.size} px, and its image is {size}"
                else:
                    ids = self.table[np.asarray(opened)]
                    if (ids < 0).any():
                        value = np.asarray(opened)[ids < 0][0]
                        problem = f"value {value} is not a class of {self.entry.name!r}"
        except Exception as error:  # hostile bytes make a decoder raise nearly anything
            problem = f"the label map cannot be read ({error})"
        if problem:
            raise InputError(f"{self.labels[position].name}: {problem}")
        return ids

    def truths(self) -> Any:
        """Return the digests of the label maps."""
        return digests(self.labels)


def read_dense_set(root: Path, entry: DenseSet) -> BoxImages | MapImages:
    """Find the images of a set and their truth; no image is decoded.

    Raises:
        Unavailable: If data are not there, with what is missing and where it is available.
        InputError: If they are there and wrong.
    """
    try:
        return _read_boxes(root, entry) if entry.task == "detection" else _read_maps(root, entry)
    except Unavailable as error:
        where = f". It is available from {entry.homepage}" if entry.homepage else ""
        raise Unavailable(f"{entry.name}: {error.reason}{where}") from error


def files_below(root: Path, folder: str, suffixes: Collection[str] = ()) -> dict[str, Picture]:
    """Return the files below a folder of the root by their names relative to it; with `suffixes`
    those that end so.

    Raises:
        Unavailable: If there is no such folder.
    """
    path = root / folder
    if not path.is_dir():
        raise Unavailable(f"there is no folder {path}")
    return {
        file.relative_to(path).as_posix(): Picture(escape_name(file.relative_to(root)), file)
        for file in sorted(path.rglob("*"))
        if (not suffixes or file.suffix.lower() in suffixes) and file.is_file()
    }


class _Image(BaseModel):
    id: int
    file_name: str
    width: int
    height: int


class _Box(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    iscrowd: int = 0


class _Category(BaseModel):
    id: int
    name: str


class _Coco(BaseModel):
    images: list[_Image]
    annotations: list[_Box]
    categories: list[_Category]

    @model_validator(mode="after")
    def _ids_are_known(self) -> Self:
        if len({normal(one.name) for one in self.categories}) < len(self.categories):
            raise ValueError("`categories` has a name twice")
        for name, listed in (("image_id", self.images), ("category_id", self.categories)):
            ids = {one.id for one in listed}
            if len(ids) < len(listed):
                raise ValueError(f"an {name} is listed twice")
            for number, box in enumerate(self.annotations):
                if (value := getattr(box, name)) not in ids:
                    raise ValueError(f"annotations[{number}].{name} {value} is not listed")
        return self


def _read_boxes(root: Path, entry: DenseSet) -> BoxImages:
    path = root / entry.truth
    coco = read_form(path, _Coco, "a COCO instances JSON")
    own = {normal(one.name): one for one in sorted(coco.categories, key=lambda one: one.id)}
    names = entry.class_names or tuple(one.name for one in own.values())
    _require_all(
        map(normal, names), own, f"{path}: `categories` lacks {{}} classes of {entry.name!r}"
    )
    categories = {own[normal(name)].id: name for name in names}
    images = {image.id: image for image in coco.images}
    boxes: list[dict[str, Any]] = []
    skipped = Counter[str]()
    for box in coco.annotations:
        cut = _cut(box, images[box.image_id])
        if not cut:
            skipped["no area in the image"] += 1
        elif box.category_id in categories:
            boxes.append({**box.model_dump(), **cut, "id": len(boxes) + 1})
    if entry.annotated_only:
        images = {box["image_id"]: images[box["image_id"]] for box in boxes}
    files = files_below(root, entry.images)
    listed = [image.file_name for image in images.values()]
    _require_all(listed, files, f"{path}: {{}} images are not in {root / entry.images}")
    truth = {
        "images": [image.model_dump() for image in images.values()],
        "annotations": boxes,
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    pictures = tuple(files[name] for name in listed)
    return BoxImages(entry, names, pictures, truth, skipped=skipped)


def _cut(box: _Box, image: _Image) -> dict[str, Any]:
    """Return a box and its area as far as they are in the image; empty if nothing of it is."""
    left, top, width, height = box.bbox
    border = [image.width, image.height]
    low = np.clip([left, top], 0, border)
    size = np.clip([left + width, top + height], 0, border) - low
    if (size <= 0).any():
        return {}
    return {"bbox": [*low.tolist(), *size.tolist()], "area": float(size.prod())}


def _read_maps(root: Path, entry: DenseSet) -> MapImages:
    truth = root / entry.truth
    maps = files_below(root, entry.truth, {".png"})
    stems = _by_stem(maps, truth)
    if not stems:
        raise Unavailable(f"{truth} holds no label map (.png)")
    files = files_below(root, entry.images, IMAGE_SUFFIXES)
    mapped = [name for name in files if PurePosixPath(name).stem in stems]
    images = _by_stem(mapped, root / entry.images)
    _require_all(stems, images, f"{root / entry.images}: no image of {{}} label maps")
    names_file = root / (entry.names_file or "")
    names = entry.class_names or tuple(read_lines(names_file))
    if twice := [name for name, count in Counter(map(normal, names)).items() if count > 1]:
        raise InputError(f"{names_file}: names {', '.join(twice)} twice")
    if len(names) > IGNORED:
        raise InputError(f"{entry.name}: {len(names)} classes do not fit a label map of 8 bits")
    # Values of the official files that are no class (unlabelled, border, unused ids) are ignored.
    table = np.full(256, IGNORED if entry.values else -1)
    values = dict(zip(names, entry.values or range(len(names)), strict=True))
    table[[IGNORED, values.pop(BACKGROUND, IGNORED)]] = IGNORED
    table[list(values.values())] = range(len(values))
    pictures = tuple(files[images[stem]] for stem in stems)
    labels = tuple(maps[name] for name in stems.values())
    return MapImages(entry, tuple(values), pictures, labels, table)


def _by_stem(names: Iterable[str], where: Path) -> dict[str, str]:
    """Return files by what joins an image and its label map: the name without folder and ending."""
    files: dict[str, str] = {}
    for name in names:
        stem = PurePosixPath(name).stem
        if (other := files.setdefault(stem, name)) != name:
            raise InputError(
                f"{where}: {other} and {name} differ in folder or ending alone; keep one of them"
            )
    return files


def _require_all(names: Iterable[str], present: Collection[str], message: str) -> None:
    if missing := [name for name in names if name not in present]:
        raise InputError(f"{message.format(len(missing))}\n{list_problems(missing)}")
