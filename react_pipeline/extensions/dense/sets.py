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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, FiniteFloat

from react_pipeline.corpus import IMAGE_SUFFIXES, BadImage, decode_apart
from react_pipeline.extensions.elevater import Files, read_form, read_lines
from react_pipeline.labelled import Unavailable, list_problems, normal
from react_pipeline.store import InputError, canonical_json

from .settings import IGNORED, DenseSet

BACKGROUND = "background"
"""A class of this name is none: its pixels are ignored."""


@dataclass(frozen=True)
class DenseImages:
    """The images of one set, with the names of its classes in the order of class ids.

    Attributes:
        skipped: Number of boxes that were left out, by reason.
    """

    entry: DenseSet
    class_names: tuple[str, ...]
    source: Files
    skipped: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return len(self.source.locations)

    def image(self, position: int, max_pixels: int) -> Image.Image:
        """Decode an image, RGB.

        Raises:
            InputError: If it is gone or cannot be decoded.
        """
        data = self.source(position)
        try:
            return decode_apart(data, max_pixels)
        except BadImage as error:
            raise InputError(
                f"{self.source.locations[position]}: no usable image ({error}); replace the file"
            ) from error

    def digest(self) -> str:
        """Return the SHA-256 over names and bytes of all images, their truth, and the classes."""
        images = self.source.digests()
        parts = [self.entry.name, self.class_names, self.source.locations, images, self.truths()]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    def truths(self) -> Any:
        """Return what identifies the truth, as JSON."""
        raise NotImplementedError


@dataclass(frozen=True)
class BoxImages(DenseImages):
    """Images with boxes.

    Attributes:
        truth: As COCO's JSON, with the images in the order of `source`, ids as in the file, boxes
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
                f"{self.source.locations[position]}: is {image.width} x {image.height} px, and "
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
        labels: Gives the bytes of the label maps.
        table: Class id of every pixel value, (256,) int64; -1 is not a value of the set.
    """

    labels: Files
    table: NDArray[np.int64]

    def label_map(self, position: int, size: tuple[int, int]) -> NDArray[np.int64]:
        """Read class ids (H, W) of an image of this (width, height); `IGNORED` pixels are not
        counted.

        Raises:
            InputError: If the map cannot be read, has another size, or a value that is not a class.
        """
        problem = ""
        try:
            with Image.open(io.BytesIO(self.labels(position)), formats=("PNG",)) as opened:
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
            raise InputError(f"{self.labels.locations[position]}: {problem}")
        return ids

    def truths(self) -> Any:
        """Return the digests of the label maps."""
        return self.labels.digests()


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


def dense_digests(root: Path, entry: DenseSet) -> frozenset[str]:
    """Return the SHA-256 of the image files of a dense set; none if it is not there."""
    try:
        return frozenset(read_dense_set(root, entry).source.digests())
    except Unavailable:
        return frozenset()


def files_below(root: Path, folder: str, suffixes: Collection[str] = ()) -> dict[str, str]:
    """Return relative name -> location of the files below a folder of the root; with `suffixes`
    those that end so.

    Raises:
        Unavailable: If there is no such folder.
    """
    path = root / folder
    if not path.is_dir():
        raise Unavailable(f"there is no folder {path}")
    return {
        file.relative_to(path).as_posix(): file.relative_to(root).as_posix()
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


def _read_boxes(root: Path, entry: DenseSet) -> BoxImages:
    path = root / entry.truth
    coco = read_form(path, _Coco, "a COCO instances JSON")
    names, ids = _classes(path, entry, coco.categories)
    images = {image.id: image for image in coco.images}
    if len(images) < len(coco.images):
        raise InputError(f"{path}: `images` has an id twice")
    boxes, skipped = _boxes(path, coco, images, set(ids))
    if entry.annotated_only:
        annotated = {box["image_id"] for box in boxes}
        images = {number: image for number, image in images.items() if number in annotated}
    files = files_below(root, entry.images)
    listed = [image.file_name for image in images.values()]
    _require_all(listed, files, f"{path}: {{}} images are not in {root / entry.images}")
    truth = {
        "images": [image.model_dump() for image in images.values()],
        "annotations": boxes,
        "categories": [
            {"id": number, "name": name} for number, name in zip(ids, names, strict=True)
        ],
    }
    source = Files(root, tuple(files[name] for name in listed))
    return BoxImages(entry, names, source, truth, skipped=skipped)


def _classes(
    path: Path, entry: DenseSet, categories: list[_Category]
) -> tuple[tuple[str, ...], list[int]]:
    """Return the names of the classes and the ids that the file has for them; the file's own names
    and order for your own set.
    """
    own = sorted((category.id, category.name) for category in categories)
    ids = {normal(name): number for number, name in own}
    if len(ids) < len(own) or len(set(ids.values())) < len(own):
        raise InputError(f"{path}: `categories` has a name or an id twice")
    names = entry.class_names or tuple(name for _, name in own)
    _require_all(
        map(normal, names), ids, f"{path}: `categories` lacks {{}} classes of {entry.name!r}"
    )
    return names, [ids[normal(name)] for name in names]


def _boxes(
    path: Path, coco: _Coco, images: Mapping[int, _Image], ids: Collection[int]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the boxes of these classes, cut to their images; those that can be no object's are
    counted.
    """
    categories = {category.id for category in coco.categories}
    boxes: list[dict[str, Any]] = []
    skipped = Counter[str]()
    for number, box in enumerate(coco.annotations):
        for name, listed in (("category_id", categories), ("image_id", images)):
            if (value := getattr(box, name)) not in listed:
                raise InputError(
                    f"{path}: annotations[{number}].{name} {value} is not listed in the file"
                )
        image = images[box.image_id]
        left, top, width, height = box.bbox
        border = [image.width, image.height]
        low = np.clip([left, top], 0, border)
        size = np.clip([left + width, top + height], 0, border) - low
        if (size <= 0).any():
            skipped["no area in the image"] += 1
        elif box.category_id in ids:
            cut = [*low.tolist(), *size.tolist()]
            about = {"id": len(boxes) + 1, "bbox": cut, "area": cut[2] * cut[3]}
            boxes.append({**box.model_dump(), **about})
    return boxes, dict(skipped)


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
    source = Files(root, tuple(files[images[stem]] for stem in stems))
    labels = Files(root, tuple(maps[name] for name in stems.values()))
    return MapImages(entry, tuple(values), source, labels, table)


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
