"""Pictures of detection and segmentation: boxes and masks drawn on images, and grids of such
pictures.

Does not belong here: which images are shown (`dense_results`, `dense_comparison`).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torchvision.ops import box_convert
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from .settings import IGNORED

TILE = 256
"""Longest side of a picture, in pixels."""
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
MIN_NAMED = 0.02
"""Part of the image from which a class is named on a mask."""


def boxes_tile(
    image: Image.Image, boxes: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> Image.Image:
    """The image with boxes in COCO's form, named, with their scores where they have one."""
    tile = _tile(image)
    if not boxes:
        return tile
    colours = dict(zip(names, cycle(COLOURS), strict=False))
    labels = []
    for box in boxes:
        score = f" {100 * box['score']:.0f} %" if "score" in box else ""
        labels.append(names[box["category_id"]] + score)
    corners = box_convert(torch.tensor([box["bbox"] for box in boxes]), "xywh", "xyxy")
    drawn = draw_bounding_boxes(
        pil_to_tensor(tile),
        corners * (max(tile.size) / max(image.size)),
        labels,
        [colours[box["category_id"]] for box in boxes],
        width=2,
    )
    return to_pil_image(drawn)


def map_tile(image: Image.Image, ids: NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """The image under its label map, with the names of large classes; ignored pixels are left as
    they are.
    """
    tile = _tile(image)
    labels = Image.fromarray(ids.astype(np.uint8)).resize(tile.size, Image.Resampling.NEAREST)
    painted = np.asarray(labels)
    numbers, counts = np.unique(painted[painted != IGNORED], return_counts=True)
    masks = torch.from_numpy(painted == numbers[:, None, None])
    colours = [COLOURS[number % len(COLOURS)] for number in numbers]
    if len(numbers):
        tile = to_pil_image(draw_segmentation_masks(pil_to_tensor(tile), masks, 0.5, colours))
    pen = ImageDraw.Draw(tile)
    for number in numbers[counts > MIN_NAMED * painted.size]:
        rows, columns = (painted == number).nonzero()
        place = float(np.median(columns)), float(np.median(rows))
        text = names[number].split(";")[0]
        pen.text(place, text, "white", anchor="mm", stroke_width=2, stroke_fill="black")
    return tile


def write_overlays(truth: Path, results: Mapping[str, Path], path: Path) -> bool:
    """Write a PNG of the pictures of results, a result a column, an image a row; False if there are
    no pictures.

    Args:
        truth: Folder of the result that has the pictures of the truth.
        results: Folders of the results by the titles of their columns; a picture that is missing
            leaves a gap.
    """
    pictures = sorted(truth.glob("shown/*-truth.png"))
    columns = [("truth", truth, "truth"), *((name, results[name], "found") for name in results)]
    figure = Figure(figsize=(2.6 * len(columns), 2.6 * len(pictures)), layout="constrained")
    for row, picture in enumerate(pictures):
        name = picture.name.removesuffix("-truth.png")
        for column, (title, folder, side) in enumerate(columns, start=1):
            axes = figure.add_subplot(len(pictures), len(columns), row * len(columns) + column)
            axes.set_title(f"{title}\n{name}", fontsize=7, parse_math=False)
            axes.set_axis_off()
            file = folder / "shown" / f"{name}-{side}.png"
            if file.is_file():
                axes.imshow(Image.open(file))
    if pictures:
        figure.savefig(path, dpi=100)
    return bool(pictures)


def _tile(image: Image.Image) -> Image.Image:
    scale = TILE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)))
