"""Rendered text: how much of a picture is printed words, such as a caption in the image itself.

Does not belong here: dropping pairs by it (`ranking`). A pair whose caption is printed in its image
teaches a model to read and not to see (T-MARS, arXiv 2307.03132); its text detector is a trained
network, which is not used here.

The measure looks for lines of glyphs and reads nothing: thin strokes that are darker or brighter
than what is around them are cut out (grey-scale opening and closing), connected strokes of a
letter's shape are glyphs, and `MIN_GLYPHS` of like height on one level, close to each other, are a
line. `benchmarks/rendered_text.py` measures how often that is right; docs/retrieval.md says where
it fails.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

SIDES_PIXELS = (448, 224)
"""Longest sides at which an image is looked at: small print shows in the first, large letters in
the second.
"""
STROKE_PIXELS = 9
"""Widest stroke that counts as thin."""
MIN_CONTRAST = 48
"""Difference between a stroke and its surroundings, of 255 grey levels."""
MIN_GLYPHS = 6
MAX_TONE_DIFFERENCE = 40
"""Between the mean greys of neighbouring glyphs, of 255: print has one colour."""
_HEIGHTS = (6, 72)
_MAX_WIDTH_TO_HEIGHT, _MIN_FILL, _MAX_FILL = 2.5, 0.15, 0.92
_MAX_HEIGHT_RATIO, _MAX_LEVEL_DIFFERENCE, _MAX_GAP = 1.8, 0.45, 1.2

Boxes = NDArray[np.float64]
"""(N, 4): top, left, bottom, right, in pixels."""


def text_fraction(image: Image.Image) -> float:
    """The fraction of an image's area that lines of printed text cover, between 0 and 1.

    Args:
        image: RGB, of any size.
    """
    best = 0.0
    for side in SIDES_PIXELS:
        grey = _scaled(image, side)
        for strokes in _strokes(grey):
            lines = _lines(*_glyphs(strokes, grey))
            covered = np.zeros(grey.shape, bool)
            for top, left, bottom, right in lines.astype(int):
                covered[top:bottom, left:right] = True
            best = max(best, float(covered.mean()))
    return best


def _scaled(image: Image.Image, side: int) -> NDArray[np.uint8]:
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BILINEAR))


def _strokes(grey: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Thin parts darker, and thin parts brighter, than what is around them."""
    size = (STROKE_PIXELS, STROKE_PIXELS)
    values = grey.astype(np.int16)
    dark = ndimage.grey_closing(values, size=size) - values
    bright = values - ndimage.grey_opening(values, size=size)
    return dark > MIN_CONTRAST, bright > MIN_CONTRAST


def _glyphs(
    strokes: NDArray[np.bool_], grey: NDArray[np.uint8]
) -> tuple[Boxes, NDArray[np.float64]]:
    """Boxes of the connected parts that have the size and shape of a letter, and their mean grey
    (N,).
    """
    labels, count = ndimage.label(strokes, structure=np.ones((3, 3), int))
    if not count:
        return np.zeros((0, 4)), np.zeros(0)
    parts = ndimage.find_objects(labels)
    boxes = np.array(
        [[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in parts]
    )
    height = boxes[:, 2] - boxes[:, 0]
    width = boxes[:, 3] - boxes[:, 1]
    pixels = np.bincount(labels.ravel())[1:]
    fill = pixels / (height * width)
    tone = np.bincount(labels.ravel(), grey.ravel())[1:] / pixels
    shaped = (
        (height >= _HEIGHTS[0]) & (height <= _HEIGHTS[1]) & (width <= _MAX_WIDTH_TO_HEIGHT * height)
    )
    shaped &= (fill >= _MIN_FILL) & (fill <= _MAX_FILL)
    return boxes[shaped].astype(np.float64), tone[shaped]


def _lines(glyphs: Boxes, tone: NDArray[np.float64]) -> Boxes:
    """Boxes of runs of neighbouring glyphs that are long enough and even enough to be text."""
    lines: list[list[int]] = []
    order = np.argsort(glyphs[:, 1], kind="stable")
    ends: list[int] = []
    for number in order:
        top, left, bottom, _ = glyphs[number]
        height = bottom - top
        level = (top + bottom) / 2
        fitting = -1
        nearest = np.inf
        for line, last in enumerate(ends):
            last_top, _, last_bottom, last_right = glyphs[last]
            last_height = last_bottom - last_top
            taller = max(height, last_height)
            gap = left - last_right
            alike = taller <= _MAX_HEIGHT_RATIO * min(height, last_height)
            beside = abs(level - (last_top + last_bottom) / 2) <= _MAX_LEVEL_DIFFERENCE * taller
            alike &= abs(tone[number] - tone[last]) <= MAX_TONE_DIFFERENCE
            if (
                alike
                and beside
                and -0.5 * taller <= gap <= _MAX_GAP * taller
                and abs(gap) < nearest
            ):
                fitting = line
                nearest = abs(gap)
        if fitting < 0:
            lines.append([])
            ends.append(0)
        lines[fitting].append(int(number))
        ends[fitting] = int(number)
    boxes = [_box(glyphs[line]) for line in lines if len(line) >= MIN_GLYPHS]
    return np.array(boxes) if boxes else np.zeros((0, 4))


def _box(glyphs: Boxes) -> Boxes:
    return np.concatenate([glyphs[:, :2].min(axis=0), glyphs[:, 2:].max(axis=0)])
