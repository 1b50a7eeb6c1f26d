"""Pictures of detection and segmentation: boxes and masks drawn on images, and grids of such
pictures.

Does not belong here: which images are shown (`dense_results`, `dense_comparison`).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from react_pipeline.extensions.dense.settings import IGNORED

TILE = 256
"""Longest side of a picture, in pixels."""
GAP, LINE = 6, 18
"""Pixels between pictures, and for a line of text."""
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
MIN_NAMED = 0.02
"""Part of the image from which a class is named on a mask."""


def boxes_tile(
    image: Image.Image, boxes: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> Image.Image:
    """The image with boxes in COCO's form, named, with their scores where they have one."""
    tile, pen, scale = _tile(image)
    colours = dict(zip(names, cycle(COLOURS), strict=False))
    for box in boxes:
        left, top, width, height = (scale * value for value in box["bbox"])
        colour = colours[box["category_id"]]
        score = f" {100 * box['score']:.0f} %" if "score" in box else ""
        pen.rectangle((left, top, left + width, top + height), outline=colour, width=2)
        _name(pen, (left + 2, top + 2), names[box["category_id"]] + score, colour)
    return tile


def map_tile(image: Image.Image, ids: NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """The image under its label map, with the names of large classes; ignored pixels are left as
    they are.
    """
    tile, pen, scale = _tile(image)
    painted = np.asarray(
        Image.fromarray(ids.astype(np.uint8)).resize(tile.size, Image.Resampling.NEAREST)
    )
    numbers, counts = np.unique(painted[painted != IGNORED], return_counts=True)
    for number in numbers:
        colour = Image.new("RGB", tile.size, COLOURS[number % len(COLOURS)])
        tile.paste(
            colour, mask=Image.fromarray(np.where(painted == number, 130, 0).astype(np.uint8))
        )
    for number in numbers[counts > MIN_NAMED * painted.size]:
        rows, columns = (painted == number).nonzero()
        place = float(np.median(columns)) - 20, float(np.median(rows)) - 5
        _name(pen, place, names[number].split(";")[0], COLOURS[number % len(COLOURS)])
    return tile


def write_overlays(truth: Path, found: Mapping[str, Path], path: Path) -> bool:
    """Write a PNG of the pictures of results, a result a column, an image a row; False if there are
    no pictures.

    Args:
        truth: Folder of the result that has the pictures of the truth.
        found: Folders of the results by the titles of their columns; a picture that is missing
            leaves a gap.
    """
    names = [
        picture.name.removesuffix("-truth.png")
        for picture in sorted(truth.glob("shown/*-truth.png"))
    ]
    tiles = [
        [_read(truth / "shown" / f"{name}-truth.png")]
        + [_read(folder / "shown" / f"{name}-found.png") for folder in found.values()]
        for name in names
    ]
    heights = [LINE + max(tile.height for tile in row) for row in tiles]
    grid = Image.new("RGB", ((len(found) + 1) * (TILE + GAP), LINE + sum(heights)), "white")
    pen = ImageDraw.Draw(grid)
    top = LINE
    for column, title in enumerate(["truth", *found]):
        pen.text((column * (TILE + GAP) + 4, 3), title, fill="black")
    for name, row, height in zip(names, tiles, heights, strict=True):
        pen.text((4, top + 3), " ".join(name.split("--")[:2]), fill="gray")
        for column, tile in enumerate(row):
            grid.paste(tile, (column * (TILE + GAP), top + LINE))
        top += height
    if names:
        grid.save(path)
    return bool(names)


def _read(picture: Path) -> Image.Image:
    return (
        Image.open(picture).convert("RGB")
        if picture.is_file()
        else Image.new("RGB", (TILE, 1), "white")
    )


def _tile(image: Image.Image) -> tuple[Image.Image, ImageDraw.ImageDraw, float]:
    scale = TILE / max(image.size)
    tile = image.resize((round(image.width * scale), round(image.height * scale)))
    return tile, ImageDraw.Draw(tile), scale


def _name(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: str) -> None:
    pen.rectangle(pen.textbbox(place, text), fill="white")
    pen.text(place, text, fill=colour)
