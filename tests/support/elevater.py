"""Tiny stand-ins of ELEVATER's 20 data sets: image folders, and tar shards of the multilabel
one.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from react_pipeline.extensions.elevater.datasets import DATASETS, Dataset, read_data
from support.drawings import write_shard

PIXELS = 8


def write_elevater(
    root: Path,
    images_per_class: int | Mapping[str, int] = 1,
    *,
    only: Collection[str] | None = None,
) -> Path:
    """Write the data sets.

    Args:
        root: Made if it is not there.
        images_per_class: Of each split, or {split: number}.
        only: Data sets that are written; unset, all 20.

    Images differ from each other; those of a class share a colour. In voc-2007 every second image
    has two classes.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name in DATASETS if only is None else only:
        entry = DATASETS[name]
        for split in entry.sizes:
            count = (
                images_per_class if isinstance(images_per_class, int) else images_per_class[split]
            )
            write = _write_shard if entry.multilabel else _write_folders
            write(root / name / split, entry, count)
    return root


def _write_folders(folder: Path, entry: Dataset, count: int) -> None:
    others = read_data("other_names.json").get(entry.name, {})
    numerals = {name: other for other, name in others.items()}
    for class_id, class_name in enumerate(entry.class_names):
        # No folder can have a name with a slash.
        name = numerals[class_name] if "/" in class_name else class_name
        (folder / name).mkdir(parents=True)
        for number in range(count):
            seed = f"{entry.name}{folder.name}{class_id}/{number}"
            (folder / name / f"{number}.png").write_bytes(png(class_id, seed))


def _write_shard(folder: Path, entry: Dataset, count: int) -> None:
    samples = {}
    for class_id in range(entry.num_classes):
        for number in range(count):
            row = np.zeros(entry.num_classes, np.uint8)
            row[[class_id, (class_id + number % 2) % entry.num_classes]] = 1
            buffer = io.BytesIO()
            np.save(buffer, row)
            image = png(class_id, f"{folder.name}{class_id}/{number}")
            samples[f"s{class_id:03d}{number:04d}"] = {"npy": buffer.getvalue(), "png": image}
    write_shard(folder / "0.tar", samples)
    (folder / "nshards.txt").write_text("1\n")
    (folder.parent / "classnames.txt").write_text("\n".join(entry.class_names) + "\n")


def write_images(root: Path, name: str, suffix: str) -> list[Path]:
    """Write one oblong image a class, as an image folder."""
    paths = []
    for label, class_name in enumerate(DATASETS[name].class_names):
        paths.append(root / name / "test" / class_name / f"0.{suffix}")
        paths[-1].parent.mkdir(parents=True)
        noise = np.random.default_rng(label).integers(0, 255, (32, 90, 3), dtype=np.uint8)
        Image.fromarray(noise).save(paths[-1])
    return paths


def png(class_id: int, seed: str) -> bytes:
    """A tiny image with the colour of its class and noise of its own."""
    chance = np.random.default_rng(zlib.crc32(seed.encode()))
    colour = np.random.default_rng(class_id).integers(40, 215, 3)
    noisy = colour + chance.integers(-40, 40, (PIXELS, PIXELS, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.astype(np.uint8)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def random_head(n_classes: int, width: int, seed: int = 0) -> torch.Tensor:
    """A weight of PyTorch's own initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Linear(width, n_classes).weight.detach()
