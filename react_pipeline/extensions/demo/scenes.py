"""Scenes for detection and segmentation: labelled drawings of a domain on a canvas, with their
boxes and label maps.

Written in the forms that people have: COCO instances JSON, label PNGs, a list of names. Places,
sizes, and overlaps come from a seed; boxes and masks from what is visible.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .drawing import with_alpha
from .evaluation import labelled_emoji

SCENES, SIDE = 24, 256
OBJECTS = 3, 5
"""Fewest and most drawings in a scene."""
SIZES = 60, 120
"""Smallest and largest side of a drawing, in pixels."""
MIN_VISIBLE = 0.25
"""A drawing of which less is visible is not an object; its pixels are ignored."""
MAX_COVERED, TRIES = 0.1, 30
"""Part of a drawing's square that may be over earlier ones, and how many places are tried for it.
"""
SOLID = 127
IGNORED = 255
MOST_CLASSES = IGNORED - 1
"""A label map has one byte a pixel, and 0 is background; classes beyond these are in no scene."""


def build_scenes(name: str, directory: Path, seed: int = 0, scenes: int = SCENES) -> int:
    """Write `images/`, `labels/` (class id + 1; 0 is background), `annotations.json` and
    `names.txt`.

    Args:
        name: Of the labelled set, as in `evaluation.GROUPS`.
        seed: Decides which drawings, where, and how large; the same seed gives the same bytes.

    Returns:
        How many objects there are.

    Raises:
        InputError: If the name is unknown or the package is missing.
    """
    drawings = labelled_emoji(name)
    classes = list(dict.fromkeys(label for _, label in drawings))[:MOST_CLASSES]
    drawings = [(path, label) for path, label in drawings if label in classes]
    chance = random.Random(f"{name} {seed}")  # noqa: S311 - drawings, not secrets
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for folder in ("images", "labels"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for number in range(scenes):
        objects = chance.sample(drawings, chance.randint(*OBJECTS))
        scene, owners, areas = _drawn(chance, [path for path, _ in objects])
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for place, (_, label) in enumerate(objects, start=1):
            visible = owners == place
            if visible.sum() < max(MIN_VISIBLE * areas[place - 1], 1):
                labels[visible] = IGNORED
                continue
            labels[visible] = category = classes.index(label) + 1
            box = _box(visible)
            boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": category, **box})
        file_name = f"{number:04d}.png"
        scene.save(directory / "images" / file_name)
        Image.fromarray(labels).save(directory / "labels" / file_name)
        images.append({"id": number, "file_name": file_name, "width": SIDE, "height": SIDE})
    _write_lists(directory, images, boxes, classes)
    return len(boxes)


def _write_lists(
    directory: Path, images: list[dict[str, Any]], boxes: list[dict[str, Any]], classes: list[str]
) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    instances = {"images": images, "annotations": boxes, "categories": categories}
    (directory / "annotations.json").write_text(json.dumps(instances), encoding="utf-8")
    (directory / "names.txt").write_text(
        "\n".join(["background", *classes]) + "\n", encoding="utf-8"
    )


def _drawn(
    chance: random.Random, paths: Sequence[Path]
) -> tuple[Image.Image, NDArray[np.uint8], list[int]]:
    """A scene of drawings, the place of the topmost one of each pixel from 1, and their areas."""
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    owners = np.zeros((SIDE, SIDE), np.uint8)
    areas = []
    for place, path in enumerate(paths, start=1):
        left, top, side = _place(chance, owners)
        drawing = with_alpha(path, side)
        canvas.paste(drawing, (left, top), drawing)
        solid = np.asarray(drawing)[..., 3] > SOLID
        owners[top : top + side, left : left + side][solid] = place
        areas.append(int(solid.sum()))
    return canvas, owners, areas


def _box(visible: NDArray[np.bool_]) -> dict[str, Any]:
    """The smallest box around an object, and its area, as COCO writes them."""
    rows, columns = (np.flatnonzero(visible.any(axis=axis)) for axis in (1, 0))
    left = int(columns[0])
    top = int(rows[0])
    bbox = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return {"iscrowd": 0, "bbox": bbox, "area": int(visible.sum())}


def _place(chance: random.Random, owners: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Left, top and side of the next drawing."""
    for _ in range(TRIES):
        side = chance.randint(*SIZES)
        left, top = (chance.randint(0, SIDE - side) for _ in range(2))
        if (owners[top : top + side, left : left + side] > 0).mean() <= MAX_COVERED:
            break
    return left, top, side
