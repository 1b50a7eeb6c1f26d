"""Tiny stand-ins of ELEVATER's 20 data sets, in the folders, index formats and archives of the
published ones.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from react_pipeline.extensions.elevater.datasets import DATASETS, Dataset, read_data
from react_pipeline.extensions.elevater.head import Head

PIXELS = 8

_ZIPS: dict[str, tuple[str, str | None, str]] = {
    "caltech-101": ("train.zip", None, "test.zip"),
    "cifar-100": ("train_images.zip", None, "test_images.zip"),
    "country211": ("train.zip", "valid.zip", "test.zip"),
    "eurosat_clip": ("2750.zip", "2750.zip", "2750.zip"),
    "gtsrb": ("train.zip", "val.zip", "final_test.zip"),
    "hateful-memes": ("img.zip", None, "img.zip"),
    "kitti-distance": ("train_images.zip", "validation_images.zip", "test_images.zip"),
    "patch-camelyon": ("train.zip", "validation.zip", "test.zip"),
    "rendered-sst2": ("train.zip", "valid.zip", "test.zip"),
    "resisc45_clip": ("images.zip", "images.zip", "images.zip"),
    "voc-2007-classification": ("train.zip", "train.zip", "test.zip"),
}
_ZIPS |= dict.fromkeys(("cifar-10", "food-101", "mnist", "oxford-iiit-pets", "stanford-cars"),
                       ("train.zip", None, "val.zip"))  # fmt: skip
_ZIPS |= dict.fromkeys(("dtd", "fer-2013", "fgvc-aircraft-2013b-variants102", "oxford-flower-102"),
                       ("train.zip", "val.zip", "test.zip"))  # fmt: skip


def write_elevater(
    root: Path,
    images_per_class: int | Mapping[str, int] = 1,
    without: Collection[str] = (),
    *,
    only: Collection[str] | None = None,
    shuffle_names: int | None = None,
    registry: bool = True,
) -> Path:
    """Write the data sets and `vision_datasets.json`, whose numbers of images match.

    Args:
        root: Made if it is not there.
        images_per_class: Of each split, or {split: number}.
        without: Data sets that are left out, of the registry too.
        only: Data sets that are written; unset, all 20.
        shuffle_names: Seed for another order of the names in the label maps; labels follow it.
        registry: Write `vision_datasets.json`.

    Images differ from each other; those of a class share a colour. In voc-2007 every second image
    has two classes.
    """
    root.mkdir(parents=True, exist_ok=True)
    names = [name for name in (DATASETS if only is None else only) if name not in without]
    entries = [
        _write_dataset(root, DATASETS[name], images_per_class, shuffle_names) for name in names
    ]
    if registry:
        (root / "vision_datasets.json").write_text(json.dumps(entries, indent=1))
    return root


def png(class_id: int, seed: str, pixels: int = PIXELS) -> bytes:
    """A tiny image with the colour of its class and noise of its own."""
    chance = np.random.default_rng(zlib.crc32(seed.encode()))
    colour = np.random.default_rng(class_id).integers(40, 215, 3)
    noisy = colour + chance.integers(-40, 40, (pixels, pixels, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.astype(np.uint8)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """An archive of members (name, bytes), added to if it is there."""
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def folder_of(root: Path, name: str) -> Path:
    """Where `write_elevater` put a data set."""
    return root / read_data("layouts.json")[name]["root_folder"]


def edit_json(path: Path, change: Any) -> None:
    """Read a JSON file, let `change` alter it in place, write it again."""
    given = json.loads(path.read_text())
    change(given)
    path.write_text(json.dumps(given))


def edit_registry(root: Path, name: str, **fields: object) -> None:
    """Set fields of one data set's entry in the registry."""
    edit_json(
        root / "vision_datasets.json",
        lambda entries: next(e for e in entries if e["name"] == name).update(fields),
    )


def _write_dataset(
    root: Path, entry: Dataset, images_per_class: int | Mapping[str, int], seed: int | None
) -> dict[str, Any]:
    layout: dict[str, Any] = json.loads(json.dumps(read_data("layouts.json")[entry.name]))
    folder = root / layout["root_folder"]
    folder.mkdir(parents=True)
    # order[label on disk] is the class id of the table.
    order = list(range(entry.num_classes))
    if seed is not None:
        random.Random(seed).shuffle(order)  # noqa: S311
    names = [entry.class_names[class_id] for class_id in order]
    if "labelmap" in layout:
        (folder / layout["labelmap"]).write_text("\n".join(names) + "\n", encoding="utf-8")
    for split, archive in zip(("train", "val", "test"), _ZIPS[entry.name], strict=True):
        if archive is None:
            continue
        count = images_per_class if isinstance(images_per_class, int) else images_per_class[split]
        rows, members = [], []
        for number in range(count):
            for label, class_id in enumerate(order):
                member = f"{split} images/{class_id}/{number}.png"
                labels = [label]
                if entry.multilabel and number % 2:
                    labels.append(order.index((class_id + 1) % entry.num_classes))
                rows.append((member, labels))
                members.append((member, png(class_id, f"{entry.name}{member}")))
        write_zip(folder / archive, members)
        write = _write_coco if layout.get("format") == "coco" else _write_iris
        write(folder / layout[split]["index_path"], archive, rows, names)
        layout[split] |= {"files_for_local_usage": [archive], "num_images": len(rows)}
    return {
        **layout,
        "version": 1,
        "description": f"A stand-in of {entry.title}.",
        "num_classes": entry.num_classes,
    }


def _write_iris(
    path: Path, archive: str, rows: list[tuple[str, list[int]]], _names: list[str]
) -> None:
    lines = (f"{archive}@{member} {','.join(map(str, labels))}\n" for member, labels in rows)
    path.write_text("".join(lines))


def _write_coco(
    path: Path, archive: str, rows: list[tuple[str, list[int]]], names: list[str]
) -> None:
    # Ids have gaps and the lists are not sorted by them, as the format allows.
    images = [
        {"id": 7 * number + 1, "file_name": member, "zip_file": archive}
        for number, (member, _) in enumerate(rows)
    ]
    annotations = [
        {"id": number, "image_id": 7 * number + 1, "category_id": 10 * label + 3}
        for number, (_, labels) in enumerate(rows)
        for label in labels
    ]
    categories = [{"id": 10 * label + 3, "name": name} for label, name in enumerate(names)]
    given = {"images": images[::-1], "annotations": annotations, "categories": categories[::-1]}
    path.write_text(json.dumps(given))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def random_head(n_classes: int, width: int, seed: int = 0) -> Head:
    """A head of PyTorch's own initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(width, n_classes)
    return Head(layer.weight.detach(), layer.bias.detach())
