"""How often `rendered_text.text_fraction` is right, on pictures with and without a printed caption.

    python benchmarks/rendered_text.py [--pictures 400] [--seed 0]

Pictures are crops of the three photographs that come with scikit-learn and matplotlib, and made-up
textures that look like text to a simple eye: bricks, blinds, foliage, windows. Half get one caption
of 3 to 12 words, printed with a DejaVu or STIX font of matplotlib: dark or bright, with or without
a box behind it, 4% to 12% of the picture's height, in one or more lines, level or (one in ten)
tilted by up to 8 degrees. Prints precision and recall for a range of thresholds, recall by size of
print, and the time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import sklearn
from PIL import Image, ImageDraw, ImageFont

from react_pipeline.retrieval import text_fraction

SIDE = 384
THRESHOLDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
TEXT = (
    "sale new red car old blue house summer flowers beautiful garden in the of with from happy "
    "birthday best price photo stock cat dog and morning travel guide how to make easy recipe "
    "chicken love quotes free download vintage"
)
WORDS = TEXT.split()
FONTS = (
    *(
        "DejaVuSans.ttf",
        "DejaVuSans-Bold.ttf",
        "DejaVuSerif.ttf",
        "DejaVuSerif-Bold.ttf",
        "DejaVuSansMono.ttf",
    ),
    *("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"),
)


def photographs() -> list[Image.Image]:
    """The photographs at hand."""
    paths = [
        *sorted((Path(sklearn.__file__).parent / "datasets" / "images").glob("*.jpg")),
        Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
    ]
    return [Image.open(path).convert("RGB") for path in paths]


def photograph(chance: random.Random, photos: list[Image.Image]) -> Image.Image:
    """A crop of a photograph, mirrored at random."""
    photo = chance.choice(photos)
    width = chance.randint(160, min(photo.size))
    left, top = chance.randint(0, photo.width - width), chance.randint(0, photo.height - width)
    crop = photo.crop((left, top, left + width, top + width)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chance.random() < 0.5 else crop


def texture(chance: random.Random) -> Image.Image:
    """Bricks, blinds, windows or foliage."""
    shade = [chance.randint(40, 220) for _ in range(3)]
    image = Image.new("RGB", (SIDE, SIDE), tuple(shade))
    pen = ImageDraw.Draw(image)
    other = tuple((value + chance.randint(60, 160)) % 256 for value in shade)
    step = chance.randint(10, 48)
    kind = chance.choice(("bricks", "blinds", "windows", "foliage"))
    for row, top in enumerate(range(0, SIDE, step)):
        if kind == "blinds":
            pen.rectangle((0, top, SIDE, top + step // 3), fill=other)
        elif kind == "bricks":
            pen.line((0, top, SIDE, top), fill=other, width=2)
            for left in range((row % 2) * step, SIDE, 2 * step):
                pen.line((left, top, left, top + step), fill=other, width=2)
        elif kind == "windows":
            for left in range(0, SIDE, step):
                corners = (
                    left + step // 4,
                    top + step // 4,
                    left + step * 3 // 4,
                    top + step * 3 // 4,
                )
                pen.rectangle(corners, fill=other)
    if kind == "foliage":
        for _ in range(600):
            x, y, size = chance.uniform(0, SIDE), chance.uniform(0, SIDE), chance.uniform(4, 22)
            tone = tuple(max(0, min(255, value + chance.randint(-90, 90))) for value in shade)
            pen.ellipse((x, y, x + size, y + size * chance.uniform(0.3, 1)), fill=tone)
    return image


def print_caption(image: Image.Image, chance: random.Random) -> float:
    """Print a caption into the picture; returns the height of its letters as a fraction of the
    picture's.
    """
    words = [chance.choice(WORDS) for _ in range(chance.randint(3, 12))]
    height = chance.uniform(0.04, 0.12)
    font = ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts/ttf" / chance.choice(FONTS)), height * SIDE
    )
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) < 0.92 * SIDE else [*lines, word]
    text = "\n".join(lines[: max(int(0.6 / height / 1.3), 1)])
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    box = pen.multiline_textbbox((0, 0), text, font=font)
    left = chance.uniform(0, max(SIDE - box[2], 1))
    top = chance.choice(
        (0.02 * SIDE, max(SIDE - box[3] - 0.04 * SIDE, 0), chance.uniform(0, max(SIDE - box[3], 1)))
    )
    bright = chance.random() < 0.5
    if chance.random() < 0.5:
        edge = (left + box[0] - 6, top + box[1] - 6, left + box[2] + 6, top + box[3] + 6)
        pen.rectangle(edge, fill=(20, 20, 20, 220) if bright else (250, 250, 250, 220))
    pen.multiline_text(
        (left, top), text, font=font, fill=(250, 250, 250, 255) if bright else (15, 15, 15, 255)
    )
    if chance.random() < 0.1:
        layer = layer.rotate(chance.uniform(-8, 8), resample=Image.Resampling.BICUBIC)
    image.paste(layer, (0, 0), layer)
    return height


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, photos = random.Random(given.seed), photographs()  # noqa: S311 - pictures, not secrets
    makers: dict[str, Callable[[], Image.Image]] = {
        "photograph": lambda: photograph(chance, photos),
        "texture": lambda: texture(chance),
    }
    kinds, printed, heights, fractions, seconds = [], [], [], [], 0.0
    for number in range(given.pictures):
        kind = list(makers)[number % len(makers)]
        image = makers[kind]()
        has_text = number // len(makers) % 2 == 1
        heights.append(print_caption(image, chance) if has_text else 0.0)
        started = time.perf_counter()
        fractions.append(text_fraction(image))
        seconds += time.perf_counter() - started
        kinds.append(kind)
        printed.append(has_text)
    text, score, height, kind_of = (
        np.array(values) for values in (printed, fractions, heights, kinds)
    )
    print(f"{len(score)} pictures, {1000 * seconds / len(score):.0f} ms each")
    print("threshold  precision  recall  " + "  ".join(f"false alarms, {name}" for name in makers))
    for threshold in THRESHOLDS:
        alarm = score > threshold
        precision = (alarm & text).sum() / max(alarm.sum(), 1)
        false = [f"{alarm[(kind_of == name) & ~text].mean():20.3f}" for name in makers]
        print(f"{threshold:9.3f}  {precision:9.3f}  {alarm[text].mean():6.3f}  " + "  ".join(false))
    for low, high in ((0.04, 0.06), (0.06, 0.08), (0.08, 0.10), (0.10, 0.12)):
        some = text & (height >= low) & (height < high)
        print(
            f"letters of {low:.0%} to {high:.0%}: recall at 0.02 "
            f"{(score[some] > 0.02).mean():.3f} of {some.sum()}"
        )


if __name__ == "__main__":
    main()
