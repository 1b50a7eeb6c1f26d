"""The one entry for reading a data set, in any of the known layouts."""

from pathlib import Path

import numpy as np

from react_pipeline.labelled import Unavailable
from react_pipeline.store import InputError

from .datasets import Dataset, dataset
from .folders import list_folder
from .images import LabelledImages, Listing
from .names import join_names
from .originals import list_original
from .webdatasets import list_shards

_LAYOUTS = {"image folder": list_folder, "webdataset": list_shards, "torchvision": list_original}


def read_dataset(root: Path, name: str, split: str) -> LabelledImages:
    """Read one split of one data set: which images it has, where their bytes are, and their labels.

    No image is decoded. Layouts are tried in turn; the first that holds the split is taken.

    Args:
        root: Folder of image folders, of clip-benchmark's tar shards, or of torchvision's data; a
            mixture is fine.

    Raises:
        Unavailable: If the split is not there, with what is missing and where to get it.
        InputError: If it is there and wrong, naming the file and every fault.
    """
    entry = dataset(name)
    if split not in entry.sizes:
        raise Unavailable(f"{name} has no split {split!r}")
    missing = []
    for layout, list_images in _LAYOUTS.items():
        try:
            listing = list_images(root, entry, split)
        except Unavailable as error:
            missing.append(error.reason)
            continue
        if listing is not None:
            return _join(root, entry, split, layout, listing)
    what = "; ".join(missing) or f"no copy of it in {root}"
    raise Unavailable(f"{name}, split {split}: {what}. Get it from {entry.homepage}")


def _join(root: Path, entry: Dataset, split: str, layout: str, listing: Listing) -> LabelledImages:
    ids = join_names(entry, listing.names, listing.where, root)
    labels = np.asarray(listing.labels)
    count = len(listing.locations)
    if not count or len(labels) != count:
        raise InputError(f"{listing.where}: no image, or {count} images and {len(labels)} labels")
    if entry.multilabel:
        joined = np.zeros((count, entry.num_classes), np.uint8)
        joined[:, ids] = labels
    elif labels.min() < 0 or labels.max() >= entry.num_classes:
        raise InputError(
            f"{listing.where}: label out of range, there are {entry.num_classes} classes"
        )
    else:
        joined = ids[labels]
    return LabelledImages(
        entry.name,
        split,
        tuple(listing.locations),
        joined,
        entry.class_names,
        layout,
        entry.sizes[split],
        listing.read,
        listing.notes,
    )


def test_digests(root: Path, name: str) -> frozenset[str]:
    """Return the SHA-256 of the files of a data set's test images; none if it is not there."""
    try:
        return frozenset(read_dataset(root, name, "test").file_digests())
    except Unavailable:
        return frozenset()
