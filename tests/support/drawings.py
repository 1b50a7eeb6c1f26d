"""Synthetic drawings with captions, and the tar shards made of them: input for tests, drawn in
milliseconds.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
PIXELS = 40
PAIRS_PER_SHARD = 32
SHARDS = 3
EVALUATION_IMAGES_PER_CLASS = 4

_POINTS = {
    "circle": None,
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "cross": [
        *[(0.3, 0), (0.7, 0), (0.7, 0.3), (1, 0.3), (1, 0.7), (0.7, 0.7)],
        *[(0.7, 1), (0.3, 1), (0.3, 0.7), (0, 0.7), (0, 0.3), (0.3, 0.3)],
    ],
}


def draw(shape: str, colour: str, seed: int, background: str = "white") -> Image.Image:
    """One shape, its place and size drawn by `seed`."""
    chance = random.Random(f"{shape}{colour}{seed}")  # noqa: S311 - drawings, not secrets
    size = chance.uniform(0.5, 0.9) * PIXELS
    left, top = (chance.uniform(0, PIXELS - size) for _ in range(2))
    image = Image.new("RGB", (PIXELS, PIXELS), background)
    pen = ImageDraw.Draw(image)
    points = _POINTS[shape]
    if points is None:
        pen.ellipse((left, top, left + size, top + size), fill=colour)
    else:
        pen.polygon([(left + x * size, top + y * size) for x, y in points], fill=colour)
    return image


def encode(image: Image.Image, extension: str = "png") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format={"jpg": "JPEG"}.get(extension, extension.upper()))
    return buffer.getvalue()


def pair(
    shape: str, colour: str, seed: int, extension: str = "png", **metadata: object
) -> dict[str, bytes]:
    """The members of one sample: image, caption and, if there is any, metadata."""
    members = {
        extension: encode(draw(shape, colour, seed), extension),
        "txt": f"a drawing of a {colour} {shape}".encode(),
    }
    return members | ({"json": json.dumps(metadata).encode()} if metadata else {})


def write_shard(
    path: Path, samples: Mapping[str, Mapping[str, bytes]] | Iterable[tuple[str, bytes]]
) -> Path:
    """A tar of samples {key: {extension: bytes}}, or of members (name, bytes); equal input gives
    equal bytes.
    """
    if isinstance(samples, Mapping):
        members = [
            (f"{key}.{ext}", data)
            for key, sample in samples.items()
            for ext, data in sample.items()
        ]
    else:
        members = list(samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_corpus(directory: Path) -> Path:
    """`SHARDS` shards of `PAIRS_PER_SHARD` pairs each: every shape in every colour, in jpg, png and
    webp.

    The last pair of the last shard is, byte for byte, the image `circle/0.png` of the shapes'
    evaluation set.
    """
    count = 0
    for shard in range(SHARDS):
        samples = {}
        for number in range(PAIRS_PER_SHARD):
            shape, colour = SHAPES[number % 4], COLOURS[number // 4 % 4]
            extension = ("jpg", "png", "webp")[count % 3]
            samples[f"{shard:02d}{number:04d}"] = pair(
                shape, colour, count, extension, number=count
            )
            count += 1
        if shard == SHARDS - 1:
            samples[f"{shard:02d}{number:04d}"] = {
                "png": encode(evaluation_image("circle", 0)),
                "txt": b"a drawing that the evaluation set also holds, a circle",
            }
        write_shard(directory / f"{shard:05d}.tar", samples)
    return directory


def evaluation_image(class_name: str, number: int) -> Image.Image:
    """An image of a shape or of a colour, on another background than the corpus has."""
    if class_name in SHAPES:
        return draw(class_name, COLOURS[number % 4], 1000 + number, "lightgrey")
    return draw(SHAPES[number % 4], class_name, 1000 + number, "lightgrey")


def write_evaluation_folder(directory: Path, class_names: Iterable[str]) -> Path:
    """One folder a class, `EVALUATION_IMAGES_PER_CLASS` PNGs in each, named 0.png and so on."""
    for class_name in class_names:
        (directory / class_name).mkdir(parents=True)
        for number in range(EVALUATION_IMAGES_PER_CLASS):
            data = encode(evaluation_image(class_name, number))
            (directory / class_name / f"{number}.png").write_bytes(data)
    return directory


SHOTS = {"name": "my shots", "kind": "folder", "path": "../shots"}
"""The field `shots` of a domain file beside whose folder `write_shots` wrote."""


def write_shot(folder: Path, name: str, number: int, data: bytes) -> Path:
    """Write a labelled picture to train on below `shots/` of a folder."""
    path = folder / "shots" / name / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_shots(folder: Path, names: Iterable[str] = SHAPES) -> None:
    """Write two shots of each class."""
    for name in names:
        for number in range(2):
            write_shot(folder, name, number, encode(draw(name, "green", 9_000 + number)))
