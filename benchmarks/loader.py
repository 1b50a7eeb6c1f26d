"""How many training images a core reads, decodes and augments: ours, torchvision's transforms, and webdataset.

Run `.venv/bin/python -m benchmarks.loader` from the repository's root. All three read the same JPEGs of 384 pixels in
the same tars and make what the paper trains with: random crop to 224, flip, RandAugment of two operations, erasing.
Ours is timm's augmentation (the reference's), which ends with bytes; the others end with normalised floats, as their
documentation does it. Crop and flip alone are measured too. Rounds
alternate, so that what else the machine does hits all alike; the best round of each counts. One thread, in one process;
then through a decoding process, as a training reads.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import webdataset
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.engine import POOL, publish
from react_pipeline.clip import Pixels
from react_pipeline.corpus import SHARDS, CollectedPairs
from react_pipeline.pages import markdown_table
from react_pipeline.store import Store
from react_pipeline.training import Views, augmentation

PAIRS, BATCH = 10_000, 64
CONFIG = PreprocessCfg(size=224)
BICUBIC = transforms.InterpolationMode.BICUBIC
CROP = (transforms.RandomResizedCrop(224, (0.08, 1), interpolation=BICUBIC), transforms.RandomHorizontalFlip())
TO_BYTES = transforms.Compose([*CROP, transforms.PILToTensor()])


def torchvision_transform(plain: bool) -> Callable[[Image.Image], Tensor]:
    """The recipe in torchvision's own transforms."""
    end = [transforms.ToTensor(), transforms.Normalize(CONFIG.mean, CONFIG.std)]
    if plain:
        return transforms.Compose([*CROP, *end])
    return transforms.Compose([*CROP, transforms.RandAugment(2, 9), *end, transforms.RandomErasing(0.25)])


class Plain(Dataset[Tensor]):
    """The same images by position, with torchvision's transforms."""

    def __init__(self, pairs: CollectedPairs, transform: Callable[[Image.Image], Tensor]) -> None:
        """Keep both."""
        self._pairs, self._transform = pairs, transform

    def __getitem__(self, position: int) -> Tensor:
        """One image, normalised, float32."""
        return self._transform(Image.open(io.BytesIO(self._pairs.encoded(position))).convert("RGB"))

    def __len__(self) -> int:
        """Of the set."""
        return len(self._pairs)


def sources(pairs: CollectedPairs, tar: Path, plain: bool) -> dict[str, tuple[Any, dict[str, Any]]]:
    """What each way gives to a DataLoader: the data set, and how it is batched."""
    pixels = Pixels(image_transform_v2(CONFIG, is_train=False))
    config = {"size": 224, "mean": CONFIG.mean, "std": CONFIG.std, "interpolation": "bicubic"}
    augment = (lambda image, _seed: TO_BYTES(image)) if plain else augmentation("timm", pixels, config)
    ours = Views(pairs, pixels, augment, 0)
    starts = range(0, len(pairs) - BATCH, BATCH)
    draws = [[(position, 1) for position in range(start, start + BATCH)] for start in starts]
    transform = torchvision_transform(plain)
    shards = webdataset.WebDataset(str(tar), shardshuffle=False).repeat().decode("pil").to_tuple("jpg")
    return {
        "ours": (ours, {"batch_sampler": draws}),
        "torchvision": (Plain(pairs, transform), {"batch_size": BATCH}),
        "webdataset": (shards.map_tuple(transform), {"batch_size": BATCH}),
    }


def rate(batches: Iterable[Any], count: int) -> float:
    """Images a second of so many batches, after one that does not count."""
    taken: Iterator[Any] = iter(batches)
    next(taken)
    began = time.perf_counter()
    for _ in islice(taken, count):
        pass
    return count * BATCH / (time.perf_counter() - began)


def measure(root: Path, rounds: int, count: int) -> list[list[Any]]:
    """Rows of the table: way, images a second of a core and through a process, ratios, bytes an image."""
    pairs = CollectedPairs(publish(Store(root), PAIRS))
    tar = next(root.rglob(f"{SHARDS}/00000.tar"))
    rows = []
    for plain in (False, True):
        ways = sources(pairs, tar, plain)
        best: dict[tuple[str, int], float] = {}
        for _ in range(rounds):
            for name, (data, options) in ways.items():
                for workers in (0, 1):
                    loader = DataLoader(data, num_workers=workers, **options)
                    best[name, workers] = max(best.get((name, workers), 0.0), rate(loader, count))
        for name, (data, options) in ways.items():
            first = next(iter(DataLoader(data, **options)))
            batch: Tensor = first[0] if isinstance(first, (list, tuple)) else first
            alone, through = best[name, 0], best[name, 1]
            rows.append(
                [
                    "crop and flip" if plain else "the paper's",
                    name,
                    round(alone),
                    round(best["ours", 0] / alone, 2),
                    round(through),
                    round(best["ours", 1] / through, 2),
                    batch.nbytes // len(batch),
                ]
            )
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=4, help="of 64 images, of each way in each round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        rows = measure(Path(directory), given.rounds, given.batches)
    print(f"{POOL} different images")
    columns = ["augmentation", "loader", "images/s", "ours : it", "through a process", "ours : it ", "bytes an image"]
    print(markdown_table(columns, rows))


if __name__ == "__main__":
    main()
