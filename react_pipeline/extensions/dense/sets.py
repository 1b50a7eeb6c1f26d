"""Images with boxes or label maps: COCO instances JSON, label PNGs of several encodings; folders or
zips, in place.

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

from react_pipeline.corpus import IMAGE_SUFFIXES, BadImage, decode_image
from react_pipeline.extensions.dense.settings import IGNORED, DenseConfig, DenseSet
from react_pipeline.labelled import (
    FileSource,
    Unavailable,
    is_inside,
    lines_of,
    normal,
    open_zip,
    read_json,
    read_lines,
)
from react_pipeline.project import Project
from react_pipeline.store import InputError, canonical_json

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
    source: FileSource
    truth: Mapping[str, Any] | None = None
    labels: FileSource | None = None
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
        data = self.source.read(position)
        try:
            image = decode_image(data, max_pixels)
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
            with Image.open(io.BytesIO(self.labels.read(position)), formats=("PNG",)) as opened:
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
                size, crc = source.checksum(position)
                name = PurePosixPath(location.replace(".zip@", "/")).name
                digest.update(f"\n{name}\0{size}\0{crc}".encode("utf-8", "surrogateescape"))
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


def dense_digests(project: Project, slug: str) -> dict[str, frozenset[str]]:
    """SHA-256 of the image files of a domain's dense sets, by set; only sets that are there."""
    found: dict[str, frozenset[str]] = {}
    root = project.config.section(DenseConfig).root
    for entry in project.config.section(DenseConfig).sets(slug) if root else ():
        try:
            images = read_dense_set(root or Path(), entry)
        except Unavailable:
            continue
        hashes = (
            hashlib.sha256(images.source.read(position)).hexdigest()
            for position in range(len(images))
        )
        found[entry.name] = frozenset(hashes)
    return found


def files_below(root: Path, folder: str) -> dict[str, str]:
    """Relative name -> location of every file below a folder, or of every member of the zip in its
    place.

    Members of a zip are named from the folder that has the archive's own name, if they are all in
    it.

    Raises:
        Unavailable: If there is neither.
    """
    path = root / folder
    archive = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file())
        return {
            found.relative_to(path).as_posix(): found.relative_to(root).as_posix()
            for found in files
        }
    if not archive.is_file():
        raise Unavailable(f"there is no folder {path} and no {archive.name} next to it")
    members = [
        name for name in open_zip(archive).namelist() if is_inside(name) and not name.endswith("/")
    ]
    inside = f"{archive.stem}/"
    named = all(name.startswith(inside) for name in members)
    where = archive.relative_to(root).as_posix()
    return {name.removeprefix(inside) if named else name: f"{where}@{name}" for name in members}


def _read_boxes(root: Path, entry: DenseSet) -> DenseImages:
    path = root / entry.truth
    given = read_json(path)
    for part in ("images", "annotations", "categories"):
        if not isinstance(given, dict) or not isinstance(given.get(part), list):
            raise InputError(f"{path}: has no `{part}`, which a COCO instances JSON lists")
    try:
        names, ids = _classes(path, entry, given["categories"])
        images = {
            image["id"]: {key: image[key] for key in ("id", "width", "height")}
            | {"file_name": str(image["file_name"])}
            for image in given["images"]
        }
        if len(images) < len(given["images"]):
            raise InputError(f"{path}: `images` has an id twice")
        boxes, skipped = _boxes(path, given, images, ids)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: an entry is not of COCO's form ({type(error).__name__}: {error})"
        ) from error
    if entry.annotated_only:
        having = {box["image_id"] for box in boxes}
        images = {number: image for number, image in images.items() if number in having}
    found = files_below(root, entry.images)
    if missing := [
        image["file_name"] for image in images.values() if image["file_name"] not in found
    ]:
        raise InputError(
            f"{path}: {len(missing)} of {len(images)} images are not in "
            f"{root / entry.images}\n{lines_of(missing)}"
        )
    categories = [{"id": number, "name": name} for number, name in zip(ids, names, strict=True)]
    truth = {"images": list(images.values()), "annotations": boxes, "categories": categories}
    files = tuple(image["file_name"] for image in images.values())
    source = FileSource(root, tuple(found[name] for name in files))
    return DenseImages(entry, names, files, source, truth, skipped=dict(skipped))


def _classes(
    path: Path, entry: DenseSet, categories: list[Any]
) -> tuple[tuple[str, ...], list[int]]:
    """Names of the classes and the ids that the file has for them; the file's own names and order
    for your own set.
    """
    known: dict[str, tuple[int, str]] = {}
    for category in categories:
        if (name := normal(str(category["name"]))) in known:
            raise InputError(f"{path}: `categories` names {category['name']!r} twice")
        known[name] = int(category["id"]), str(category["name"])
    if len({number for number, _ in known.values()}) < len(known):
        raise InputError(f"{path}: `categories` has an id twice")
    names = entry.class_names or tuple(name for _, name in sorted(known.values()))
    if missing := [name for name in names if normal(name) not in known]:
        raise InputError(
            f"{path}: `categories` lacks {len(missing)} classes of "
            f"{entry.name!r}\n{lines_of(missing)}"
        )
    return names, [known[normal(name)][0] for name in names]


def _boxes(
    path: Path, given: Mapping[str, Any], images: Mapping[int, Any], ids: list[int]
) -> tuple[list[dict[str, Any]], Counter[str]]:
    wanted = set(ids)
    all_ids = {category["id"] for category in given["categories"]}
    boxes: list[dict[str, Any]] = []
    skipped = Counter[str]()
    for number, box in enumerate(given["annotations"]):
        if box["category_id"] not in all_ids or box["image_id"] not in images:
            field_name = "image_id" if box["category_id"] in all_ids else "category_id"
            raise InputError(
                f"{path}: annotations[{number}].{field_name} {box[field_name]} is not listed in "
                "the file"
            )
        image = images[box["image_id"]]
        shape = box.get("segmentation")
        if isinstance(shape, dict) and list(shape["size"]) != [image["height"], image["width"]]:
            raise InputError(
                f"{path}: annotations[{number}].segmentation.size {shape['size']} is not its "
                "image's"
            )
        left, top, width, height = map(float, box["bbox"])
        right = min(left + width, image["width"])
        bottom = min(top + height, image["height"])
        inside = max(left, 0.0), max(top, 0.0)
        if not np.isfinite(left + top + width + height) or width <= 0 or height <= 0:
            skipped["no area"] += 1
        elif right <= inside[0] or bottom <= inside[1]:
            skipped["outside the image"] += 1
        elif box["category_id"] in wanted:
            cut = [*inside, right - inside[0], bottom - inside[1]]
            # A hundredth of a pixel is how annotations are rounded.
            skipped["cut at the border"] += int(
                np.abs(np.subtract(cut, [left, top, width, height])).max() > 0.02
            )
            ours = {
                "id": len(boxes) + 1,
                "image_id": box["image_id"],
                "category_id": box["category_id"],
                "bbox": cut,
            }
            area = float(box.get("area", cut[2] * cut[3]))
            crowd = int(box.get("iscrowd", 0))
            boxes.append({**ours, "area": area, "iscrowd": crowd})
    return boxes, +skipped


def _read_maps(root: Path, entry: DenseSet) -> DenseImages:
    maps = {
        name: where
        for name, where in files_below(root, entry.truth).items()
        if name.lower().endswith(".png")
    }
    converted = [name for name in maps if TRAIN_IDS in name]
    listed = read_lines(root / entry.listed) if entry.listed else None
    stems = _by_stem(converted or maps, listed, root / entry.truth)
    if listed is not None:
        if missing := [name for name in listed if name not in stems]:
            raise InputError(
                f"{root / entry.truth}: no label map of {len(missing)} listed "
                f"images\n{lines_of(missing)}"
            )
        stems = {name: stems[name] for name in listed}
    found = files_below(root, entry.images)
    suffixed = [name for name in found if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    images = _by_stem(suffixed, stems, root / entry.images)
    if missing := [stem for stem in stems if stem not in images]:
        raise InputError(
            f"{root / entry.images}: no image of {len(missing)} label maps\n{lines_of(missing)}"
        )
    if not stems:
        raise Unavailable(f"{root / entry.truth} holds no label map (.png)")
    names = entry.class_names or tuple(read_lines(root / (entry.names_file or "")))
    if twice := [name for name, count in Counter(map(normal, names)).items() if count > 1]:
        raise InputError(f"{root / (entry.names_file or '')}: names {', '.join(twice)} twice")
    if len(names) > IGNORED:
        raise InputError(f"{entry.name}: {len(names)} classes do not fit a label map of 8 bits")
    values = () if converted else entry.values or ()
    # Values of the official files that are no class (unlabelled, border, unused ids) count for
    # nothing.
    table = np.full(256, IGNORED if values else -1)
    table[IGNORED] = IGNORED
    table[list(values or range(len(names)))] = range(len(names))
    files = tuple(images[stem] for stem in stems)
    source = FileSource(root, tuple(found[name] for name in files))
    labels = FileSource(root, tuple(maps[name] for name in stems.values()))
    return DenseImages(entry, names, files, source, labels=labels, table=table)


def _by_stem(names: Iterable[str], wanted: Collection[str] | None, where: Path) -> dict[str, str]:
    """Files by what joins an image and its label map: the name without folder and ending, of those
    that are wanted.
    """
    found: dict[str, str] = {}
    known = None if wanted is None else set(wanted)
    for name in names:
        stem = PurePosixPath(name).stem.removesuffix(TRAIN_IDS)
        if (known is None or stem in known) and (other := found.setdefault(stem, name)) != name:
            raise InputError(
                f"{where}: {other} and {name} differ in folder or ending alone; keep one of them"
            )
    return found
