"""Pictures of detection and segmentation: boxes and masks drawn on images, and grids of such pictures.

Does not belong here: which images are shown (`dense_results`, `dense_comparison`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from react_pipeline.settings import IGNORED

TILE = 256
"""Longest side of a picture, in pixels."""
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
MIN_NAMED = 0.02
"""Part of the image from which a class is named on a mask."""


def boxes_tile(image: Image.Image, boxes: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> Image.Image:
    """The image with boxes in COCO's form, named, with their scores where they have one."""
    tile, pen, scale = _tile(image)
    for number, box in enumerate(boxes):
        left, top, width, height = (scale * value for value in box["bbox"])
        colour = COLOURS[number % len(COLOURS)]
        score = f" {100 * box['score']:.0f} %" if "score" in box else ""
        pen.rectangle((left, top, left + width, top + height), outline=colour, width=2)
        _name(pen, (left + 2, top + 2), names[box["category_id"]] + score, colour)
    return tile


def map_tile(image: Image.Image, ids: NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """The image under its label map, with the names of large classes; ignored pixels are left as they are."""
    tile, pen, scale = _tile(image)
    painted = np.asarray(Image.fromarray(ids.astype(np.uint8)).resize(tile.size, Image.Resampling.NEAREST))
    numbers, counts = np.unique(painted[painted != IGNORED], return_counts=True)
    for number in numbers:
        colour = Image.new("RGB", tile.size, COLOURS[number % len(COLOURS)])
        tile.paste(colour, mask=Image.fromarray(np.where(painted == number, 130, 0).astype(np.uint8)))
    for number in numbers[counts > MIN_NAMED * painted.size]:
        rows, columns = (painted == number).nonzero()
        place = float(np.median(columns)) - 20, float(np.median(rows)) - 5
        _name(pen, place, names[number].split(";")[0], COLOURS[number % len(COLOURS)])
    return tile


def write_overlays(truth: Path, found: Mapping[str, Path], path: Path) -> bool:
    """Write a PNG of the pictures of results, one result a column; False if there are no pictures.

    Args:
        truth: Folder of the result that has the pictures of the truth.
        found: Folders of the results by the titles of their columns; a picture that is missing leaves a gap.
    """
    truths = sorted(truth.glob("shown/*-truth.png"))
    names = [picture.name.removesuffix("-truth.png") for picture in truths]
    columns = {"truth": truths} | {
        title: [folder / "shown" / f"{name}-found.png" for name in names] for title, folder in found.items()
    }
    grid = Image.new("RGB", (len(columns) * (TILE + 6), len(truths) * (TILE + 6) + 18), "white")
    pen = ImageDraw.Draw(grid)
    for column, (title, pictures) in enumerate(columns.items()):
        pen.text((column * (TILE + 6) + 4, 3), title, fill="black")
        for row, picture in enumerate(pictures):
            if picture.is_file():
                with Image.open(picture) as tile:
                    grid.paste(tile, (column * (TILE + 6), row * (TILE + 6) + 18))
    if truths:
        grid.save(path)
    return bool(truths)


def _tile(image: Image.Image) -> tuple[Image.Image, ImageDraw.ImageDraw, float]:
    scale = TILE / max(image.size)
    tile = image.resize((round(image.width * scale), round(image.height * scale)))
    return tile, ImageDraw.Draw(tile), scale


def _name(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: str) -> None:
    pen.rectangle(pen.textbbox(place, text), fill="white")
    pen.text(place, text, fill=colour)
