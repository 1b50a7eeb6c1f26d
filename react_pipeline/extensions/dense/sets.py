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

from react_pipeline.corpus import IMAGE_SUFFIXES, BadImage, decode_apart
from react_pipeline.extensions.elevater import Files, read_lines
from react_pipeline.labelled import Unavailable, lines_of, normal
from react_pipeline.store import InputError, canonical_json, read_json_bounded

from .settings import IGNORED, DenseSet

BACKGROUND = "background"
TRAIN_IDS = "_labelTrainIds"
"""Ends the names of COCO-Stuff's label maps that are converted already: their values are class ids.
"""


@dataclass(frozen=True)
class DenseImages:
    """The images of one set and what is true of them.

    Attributes:
        entry: Of the table, or your own.
        class_names: In the order of class ids; several names of one class are separated by `;`.
        names: File names of the images.
        truth: As COCO's JSON, with the images in the order of `names`, ids as in the file, boxes
            cut to the image; None for label maps. `categories` are in the order of class ids.
        labels: Gives the bytes of the label maps; None for boxes.
        table: Class id of every pixel value of a label map, (256,) int64; -1 is not a value of the
            set.
        skipped: Boxes left out or cut, by reason.
    """

    entry: DenseSet
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    source: Files
    truth: Mapping[str, Any] | None = None
    labels: Files | None = None
    table: NDArray[np.int64] | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def background(self) -> int | None:
        """Id of the class `background`, if there is one."""
        firsts = [name.split(";")[0] for name in self.class_names]
        return firsts.index(BACKGROUND) if BACKGROUND in firsts else None

    def image(self, position: int, max_pixels: int) -> Image.Image:
        """The image, RGB.

        Raises:
            InputError: If it is gone, cannot be decoded, or is of another size than the JSON says.
        """
        data = self.source(position)
        try:
            image, _ = decode_apart(data, max_pixels)
        except BadImage as error:
            raise InputError(
                f"{self.names[position]}: no usable image ({error}); replace the file"
            ) from error
        if self.truth is not None:
            about = self.truth["images"][position]
            if image.size != (about["width"], about["height"]):
                raise InputError(
                    f"{self.names[position]}: is {image.width} x {image.height} px, and `images` "
                    f"of {self.entry.truth} says {about['width']} x {about['height']}"
                )
        return image

    def label_map(self, position: int, size: tuple[int, int]) -> NDArray[np.int64]:
        """Class ids (H, W) of an image of this (width, height); `IGNORED` counts for nothing.

        Raises:
            InputError: If the map cannot be read, has another size, or a value that is not a class.
        """
        assert self.labels is not None and self.table is not None  # noqa: S101 - a set of label maps
        where = self.labels.locations[position]
        try:
            with Image.open(io.BytesIO(self.labels(position)), formats=("PNG",)) as opened:
                if opened.mode not in ("L", "P"):
                    raise InputError(
                        f"{where}: a label map has one channel of 8 bits, and this is {opened.mode}"
                    )
                if opened.size != size:
                    raise InputError(
                        f"{where}: is {opened.width} x {opened.height} px, and its image is "
                        f"{size[0]} x {size[1]}"
                    )
                values = np.asarray(opened)
        except InputError:
            raise
        except Exception as error:  # hostile bytes make a decoder raise nearly anything
            raise InputError(f"{where}: the label map cannot be read ({error})") from error
        ids = self.table[values]
        if (ids < 0).any():
            raise InputError(
                f"{where}: value {values[ids < 0][0]} is not a class of {self.entry.name!r}"
            )
        return ids

    def digest(self) -> str:
        """SHA-256 over names, sizes and checksums of all files, the boxes, and the classes."""
        digest = hashlib.sha256(
            canonical_json([self.entry.name, self.class_names, self.truth]).encode()
        )
        for source in filter(None, (self.source, self.labels)):
            for position, location in enumerate(source.locations):
                line = f"\n{PurePosixPath(location).name}\0{_sha256(source, position)}"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def read_dense_set(root: Path, entry: DenseSet) -> DenseImages:
    """Find the images of a set and what is true of them; no image is decoded.

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
        images = read_dense_set(root, entry)
    except Unavailable:
        return frozenset()
    return frozenset(_sha256(images.source, position) for position in range(len(images)))


def _sha256(source: Files, position: int) -> str:
    return hashlib.sha256(source(position)).hexdigest()


def files_below(root: Path, folder: str) -> dict[str, str]:
    """Return relative name -> location of every file below a folder of the root.

    Raises:
        Unavailable: If there is none.
    """
    path = root / folder
    if not path.is_dir():
        raise Unavailable(f"there is no folder {path}")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.relative_to(root).as_posix() for file in files}


def _read_json(path: Path) -> Any:
    try:
        return read_json_bounded(path)
    except FileNotFoundError as error:
        raise Unavailable(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the JSON cannot be read ({error})") from error


def _read_boxes(root: Path, entry: DenseSet) -> DenseImages:
    path = root / entry.truth
    coco = _read_json(path)
    for part in ("images", "annotations", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(part), list):
            raise InputError(f"{path}: has no `{part}`, which a COCO instances JSON lists")
    try:
        names, ids = _classes(path, entry, coco["categories"])
        images = {}
        for image in coco["images"]:
            size = {key: image[key] for key in ("id", "width", "height")}
            images[image["id"]] = {**size, "file_name": str(image["file_name"])}
        if len(images) < len(coco["images"]):
            raise InputError(f"{path}: `images` has an id twice")
        boxes, skipped = _boxes(path, coco, images, set(ids))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: an entry is not of COCO's form ({type(error).__name__}: {error})"
        ) from error
    if entry.annotated_only:
        annotated = {box["image_id"] for box in boxes}
        images = {number: image for number, image in images.items() if number in annotated}
    files = files_below(root, entry.images)
    file_names = tuple(image["file_name"] for image in images.values())
    if missing := [name for name in file_names if name not in files]:
        raise InputError(
            f"{path}: {len(missing)} of {len(images)} images are not in "
            f"{root / entry.images}\n{lines_of(missing)}"
        )
    categories = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
    truth = {"images": list(images.values()), "annotations": boxes, "categories": categories}
    source = Files(root, tuple(files[name] for name in file_names))
    return DenseImages(entry, names, file_names, source, truth, skipped=dict(skipped))


def _classes(
    path: Path, entry: DenseSet, categories: list[Any]
) -> tuple[tuple[str, ...], list[int]]:
    """Return the names of the classes and the ids that the file has for them; the file's own names
    and order for your own set.
    """
    own = sorted((int(category["id"]), str(category["name"])) for category in categories)
    ids = {normal(name): number for number, name in own}
    if len(ids) < len(own) or len(set(ids.values())) < len(own):
        raise InputError(f"{path}: `categories` has a name or an id twice")
    names = entry.class_names or tuple(name for _, name in own)
    if missing := [name for name in names if normal(name) not in ids]:
        raise InputError(
            f"{path}: `categories` lacks {len(missing)} classes of "
            f"{entry.name!r}\n{lines_of(missing)}"
        )
    return names, [ids[normal(name)] for name in names]


def _boxes(
    path: Path, coco: Mapping[str, Any], images: Mapping[int, Any], ids: Collection[int]
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return the boxes of these classes, cut to their images; those that can be no object's are
    counted.
    """
    categories = {category["id"] for category in coco["categories"]}
    boxes: list[dict[str, Any]] = []
    skipped = Counter[str]()
    for number, box in enumerate(coco["annotations"]):
        for field_name, listed in (("category_id", categories), ("image_id", images)):
            if box[field_name] not in listed:
                where = f"annotations[{number}].{field_name}"
                raise InputError(f"{path}: {where} {box[field_name]} is not listed in the file")
        image = images[box["image_id"]]
        size = [image["width"], image["height"]]
        left, top, width, height = map(float, box["bbox"])
        corners = np.clip([left, top, left + width, top + height], 0, size * 2).tolist()
        cut = [*corners[:2], corners[2] - corners[0], corners[3] - corners[1]]
        if not np.isfinite(left + top + width + height) or width <= 0 or height <= 0:
            skipped["no area"] += 1
        elif cut[2] <= 0 or cut[3] <= 0:
            skipped["outside the image"] += 1
        elif box["category_id"] in ids:
            # A hundredth of a pixel is how annotations are rounded.
            moved = np.abs(np.subtract(cut, [left, top, width, height])).max() > 0.02
            skipped["cut at the border"] += int(moved)
            about = {"id": len(boxes) + 1, "bbox": cut, "iscrowd": int(box.get("iscrowd", 0))}
            about["area"] = float(box.get("area", cut[2] * cut[3]))
            boxes.append({key: box[key] for key in ("image_id", "category_id")} | about)
    return boxes, +skipped


def _read_maps(root: Path, entry: DenseSet) -> DenseImages:
    truth = root / entry.truth
    maps = {
        name: where
        for name, where in files_below(root, entry.truth).items()
        if name.lower().endswith(".png")
    }
    converted = [name for name in maps if TRAIN_IDS in name]
    stems = _by_stem(converted or maps, truth)
    if entry.listed:
        listed = read_lines(root / entry.listed)
        _require_all(listed, stems, f"{truth}: no label map of {{}} listed images")
        stems = {name: stems[name] for name in listed}
    if not stems:
        raise Unavailable(f"{truth} holds no label map (.png)")
    files = files_below(root, entry.images)
    pictures = [
        name
        for name in files
        if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        and PurePosixPath(name).stem in stems
    ]
    images = _by_stem(pictures, root / entry.images)
    _require_all(stems, images, f"{root / entry.images}: no image of {{}} label maps")
    names_file = root / (entry.names_file or "")
    names = entry.class_names or tuple(read_lines(names_file))
    if twice := [name for name, count in Counter(map(normal, names)).items() if count > 1]:
        raise InputError(f"{names_file}: names {', '.join(twice)} twice")
    if len(names) > IGNORED:
        raise InputError(f"{entry.name}: {len(names)} classes do not fit a label map of 8 bits")
    values = () if converted else entry.values
    # Values of the official files that are no class (unlabelled, border, unused ids) count for
    # nothing.
    table = np.full(256, IGNORED if values else -1)
    table[IGNORED] = IGNORED
    table[list(values or range(len(names)))] = range(len(names))
    file_names = tuple(images[stem] for stem in stems)
    source = Files(root, tuple(files[name] for name in file_names))
    labels = Files(root, tuple(maps[name] for name in stems.values()))
    return DenseImages(entry, names, file_names, source, labels=labels, table=table)


def _by_stem(names: Iterable[str], where: Path) -> dict[str, str]:
    """Files by what joins an image and its label map: the name without folder and ending."""
    files: dict[str, str] = {}
    for name in names:
        stem = PurePosixPath(name).stem.removesuffix(TRAIN_IDS)
        if (other := files.setdefault(stem, name)) != name:
            raise InputError(
                f"{where}: {other} and {name} differ in folder or ending alone; keep one of them"
            )
    return files


def _require_all(names: Iterable[str], present: Collection[str], message: str) -> None:
    if missing := [name for name in names if name not in present]:
        raise InputError(f"{message.format(len(missing))}\n{lines_of(missing)}")
