"""How much of a core a training image takes: ours, torchvision's transforms, and webdataset; and
who waits for whom.

Run `.venv/bin/python -m benchmarks.loader` from the repository's root; `--page
benchmarks/results.md` writes the tables there.

- All three ways read the same JPEGs in the same tar and make what the paper trains with: random
  crop to 224, flip, RandAugment of two operations, erasing. Ours is timm's augmentation (the
  reference's), which ends with bytes; the others end with normalised floats, as their documentation
  does it. Crop and flip alone are measured too. Rounds of one batch alternate, each beginning with
  another way; figures are medians of the rounds, ratios are taken within a round. Time is the
  processor's of one thread, which other work on the machine changes little.
- A training whose model is a sleep: of a step that takes as long as 512 images on a GPU, one
  decoding process makes the share that falls to one of so many cores. What it waits is the share of
  the time that the GPU would.
- Parts of a JPEG that is decoded at a fraction of its size and resized with vector instructions,
  against those of the whole image by Pillow: pixels, and vectors of the demo's base. Photographs
  are scikit-learn's, side by side.
"""

from __future__ import annotations

import argparse
import importlib
import io
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import webdataset
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.methods import write_section
from react_pipeline.clip import Pixels
from react_pipeline.clip.model import from_parts
from react_pipeline.corpus import SHARDS, CollectedPairs, decode_image
from react_pipeline.corpus.collected import write_table
from react_pipeline.extensions.demo import build_base
from react_pipeline.pages import markdown_table
from react_pipeline.store import Inputs, Store
from react_pipeline.training.augmentation import augmentation
from react_pipeline.training.data import Views

BEGIN, END = "<!-- loader:begin -->", "<!-- loader:end -->"
SIZES = ((512, 512, 95), (640, 480, 90), (2048, 1536, 90))
"""Width, height and quality: as img2dataset resizes, as many web images are, and as a camera makes
them.
"""

IMAGES, BATCH, STEP_IMAGES, VIEWS, MAX_PIXELS = 8, 32, 512, 40, 1 << 30
CORES, STEPS, AHEAD = (4, 6, 8, 16), 30, 5
"""Processes among which a step is divided; steps, and the first of them, whose batches are made
before they count.
"""

CONFIG = PreprocessCfg(size=224)
TIMM = {"size": 224, "mean": CONFIG.mean, "std": CONFIG.std, "interpolation": "bicubic"}
CROP = (
    transforms.RandomResizedCrop(
        224, (0.08, 1), interpolation=transforms.InterpolationMode.BICUBIC
    ),
    transforms.RandomHorizontalFlip(),
)
PLAIN, PAPER = "crop and flip", "the paper's"


def photograph(width: int, height: int, chance: np.random.Generator) -> Image.Image:
    """Colours whose amplitude falls with the frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(width)[None], np.fft.fftfreq(height)[:, None])
    frequency[0, 0] = np.inf

    def noise() -> NDArray[np.float64]:
        waves = np.fft.fft2(chance.standard_normal((height, width))) / frequency**1.5
        made = np.fft.ifft2(waves).real
        return np.asarray(made / made.std())

    light = noise()
    pixels = 128 + 50 * np.stack([light + 0.3 * noise() for _ in range(3)], -1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> bytes:
    """The file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def retrieved(store: Store, images: Sequence[bytes]) -> CollectedPairs:
    """Publish a set of ten pairs an image, whose images lie in one tar."""

    def write(directory: Path, _: object) -> dict[str, int]:
        (directory / SHARDS).mkdir()
        offsets = []
        with tarfile.open(directory / SHARDS / "00000.tar", "w") as tar:
            for number, image in enumerate(images):
                member = tarfile.TarInfo(f"{number:09d}.jpg")
                member.size = len(image)
                offsets.append(tar.offset + tarfile.BLOCKSIZE)
                tar.addfile(member, io.BytesIO(image))
        row = np.arange(10 * len(images))
        sizes = np.array([len(image) for image in images])
        named = pa.array([""] * len(row), pa.large_string()).dictionary_encode()
        place = row % len(images)
        columns = {"row": row, "shard": 0 * row, "offset": np.array(offsets)[place]}
        columns["bytes"] = sizes[place]
        texts = {"caption": named, "class": named}
        write_table(directory / SHARDS, {n: pa.array(v) for n, v in columns.items()} | texts)
        return {"pairs": len(row)}

    return CollectedPairs(store.build(Inputs("retrieved_set", "photographs", {}, {}, "1"), write))


def torchvision_transform(kind: str) -> Callable[[Image.Image], Tensor]:
    """The recipe in torchvision's own transforms."""
    end = [transforms.ToTensor(), transforms.Normalize(CONFIG.mean, CONFIG.std)]
    if kind == PLAIN:
        return transforms.Compose([*CROP, *end])
    return transforms.Compose(
        [*CROP, transforms.RandAugment(2, 9), *end, transforms.RandomErasing(0.25)]
    )


class Torchvision(Dataset[Tensor]):
    """The same images by position, with torchvision's transforms."""

    def __init__(self, pairs: CollectedPairs, transform: Callable[[Image.Image], Tensor]) -> None:
        """Keep both."""
        self._pairs, self._transform = pairs, transform

    def __getitem__(self, draw: tuple[int, int]) -> Tensor:
        """One image, normalised, float32."""
        return self._transform(Image.open(io.BytesIO(self._pairs.encoded(draw[0]))).convert("RGB"))


def draws(size: int) -> Iterator[list[tuple[int, int]]]:
    """Position and view of each image of each batch, without an end."""
    numbers = count()
    while True:
        yield [(number % IMAGES, number + 1) for number in islice(numbers, size)]


def views(pairs: CollectedPairs, kind: str = PAPER) -> Views:
    """Ours."""
    augment: Any = augmentation("timm", Pixels(image_transform_v2(CONFIG, is_train=False)), TIMM)
    if kind == PLAIN:
        augment._transform.transforms = [
            augment._transform.transforms[0],
            augment._transform.transforms[-1],
        ]
        augment._erased = lambda pixels: pixels
    return Views(pairs, Pixels(image_transform_v2(CONFIG, is_train=False)), augment, 0)


def ways(pairs: CollectedPairs, tar: Path, kind: str) -> dict[str, Iterator[Any]]:
    """Batches of each way, without an end, made when they are taken."""
    transform = torchvision_transform(kind)
    shards = (
        webdataset.WebDataset(str(tar), shardshuffle=False).repeat().decode("pil").to_tuple("jpg")
    )
    loaders = {
        "ours": DataLoader(views(pairs, kind), batch_sampler=draws(BATCH)),
        "torchvision": DataLoader(Torchvision(pairs, transform), batch_sampler=draws(BATCH)),
        "webdataset": DataLoader(shards.map_tuple(transform), batch_size=BATCH),
    }
    return {name: iter(loader) for name, loader in loaders.items()}


def compared(pairs: CollectedPairs, tar: Path, kind: str, rounds: int) -> list[Any]:
    """Row of a table: ours in milliseconds and images a second, the others in times ours, by the
    processor.
    """
    taken = ways(pairs, tar, kind)
    for batches in taken.values():
        next(batches)
    seconds: dict[str, list[float]] = {name: [] for name in taken}
    names = list(taken)
    for number in range(rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            began = time.process_time()
            next(taken[name])
            seconds[name].append(time.process_time() - began)
    ours = seconds.pop("ours")
    alone = statistics.median(ours) / BATCH
    ratios = [
        [its / own for its, own in zip(theirs, ours, strict=True)] for theirs in seconds.values()
    ]
    return [kind, 1e3 * alone, round(1 / alone), *map(statistics.median, ratios)]


def waited(pairs: CollectedPairs, cores: int, step_seconds: float) -> float:
    """The share of the time that steps of a sleep wait for one decoding process of so many."""
    batches = views(pairs).batches(draws(STEP_IMAGES // cores), workers=1)
    waits = []
    for _ in range(STEPS):
        began = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - began)
        time.sleep(step_seconds)
    waiting = sum(waits[AHEAD:])
    return waiting / (waiting + step_seconds * (STEPS - AHEAD))


def differences(width: int, times: int) -> list[Any]:
    """Row of a table: parts of JPEGs at least `times` the model's size, against timm's way to the
    same parts.
    """
    clip = from_parts(*build_base())
    pixels = Pixels(clip.preprocess)
    augment: Any = augmentation("timm", pixels, clip.preprocess_cfg)
    crop = augment._crop
    importlib.import_module(type(augment).__module__).DECODED = times or 100  # type: ignore[attr-defined]
    apart, cosines = [], []
    for photo in load_sample_images().images:
        repeats = -(-width // photo.shape[1])
        data = jpeg(Image.fromarray(np.tile(photo, (repeats, repeats, 1))[:, :width]), 92)
        whole = decode_image(data, MAX_PIXELS)
        for seed in range(VIEWS):
            random.seed(seed)
            image = decode_image(data, MAX_PIXELS, lazy=True)
            ours = augment._cropped(image)
            fraction = round(whole.width / image.width)
            if fraction == 1 and times:
                continue
            random.seed(seed)
            top, left, high, wide = crop.get_params(whole, crop.scale, crop.ratio)
            box = [fraction * round(at / fraction) for at in (left, top, left + wide, top + high)]
            theirs = whole.crop(tuple(box)).resize(crop.size[::-1], Image.Resampling.BICUBIC)
            if not times:
                ours = whole.crop(tuple(box)).resize(crop.size[::-1], Image.Resampling.BILINEAR)
            pair = torch.stack([pil_to_tensor(ours), pil_to_tensor(theirs)])
            apart.append(float((pair[0].float() - pair[1].float()).abs().mean()))
            one, other = clip.encode_images(pixels.normalised(pair))
            cosines.append(float(one @ other))
    share = len(apart) / (2 * VIEWS)
    what = (
        f"decoded at a fraction, {times} times the size or more"
        if times
        else "bilinear instead of bicubic"
    )
    return [what, width, share, statistics.mean(apart), statistics.mean(cosines), min(cosines)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--step-seconds", type=float, default=0.256, help=f"of {STEP_IMAGES} images on a GPU"
    )
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables = []
    with tempfile.TemporaryDirectory() as directory:
        for width, height, quality in SIZES:
            root, chance = Path(directory, f"{width}"), np.random.default_rng(0)
            images = [jpeg(photograph(width, height, chance), quality) for _ in range(IMAGES)]
            pairs = retrieved(Store(root), images)
            tar = next(root.rglob(f"{SHARDS}/00000.tar"))
            size = f"{width} x {height}, {statistics.mean(map(len, images)) / 1024:.0f} KiB"
            rows = [[size, *compared(pairs, tar, kind, given.rounds)] for kind in (PAPER, PLAIN)]
            tables += rows
            if width == SIZES[0][0]:
                needed = STEP_IMAGES / given.step_seconds * rows[0][2] / 1e3
                waits = [
                    [cores, max(0.0, 1 - cores / needed), waited(pairs, cores, given.step_seconds)]
                    for cores in CORES
                ]
    apart = [differences(*case) for case in ((1_024, 0), (1_024, 2), (2_048, 2))]
    columns = [
        "JPEG",
        "augmentation",
        "ms of a core",
        "images/s",
        "torchvision, times ours",
        "webdataset, times ours",
    ]
    about = (
        f"{IMAGES} synthetic photographs of each size, {given.rounds} rounds of {BATCH}, torch "
        f"{torch.__version__}."
    )
    text = [
        about,
        markdown_table(columns, tables),
        f"A step of {STEP_IMAGES} images in {given.step_seconds} s wants {needed:.1f} cores, by "
        "the first row. With a sleep in place of the model:",
        markdown_table(["cores", "waits, by the sum", "waits, measured"], waits),
        "Against the same part of the whole image, resized by Pillow, in levels of 255 and "
        "cosines of the demo's base:",
        markdown_table(
            ["way", "width", "share of views", "difference", "mean cosine", "smallest"], apart
        ),
    ]
    section = "\n\n".join(part.strip() for part in text)
    print(section)
    if given.page:
        write_section(given.page, section, BEGIN, END)


if __name__ == "__main__":
    main()
