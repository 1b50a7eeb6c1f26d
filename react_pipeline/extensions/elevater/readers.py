"""The one entry for reading a data set in any of the known layouts, its classes joined by name.

A position never decides which class a label means. Belongs here too: the layout of image folders,
`ROOT/<data set>/<split>/<class>/...` (torchvision's country211 and rendered-sst2 are such), and the
report of which splits are there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.extensions.predict import Picture
from react_pipeline.installation import installed_file
from react_pipeline.labelled import Unavailable, images_by_folder, list_problems, normal
from react_pipeline.project import escape_name
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import InputError

from .datasets import DATASETS, IMAGENET, Dataset, dataset, read_data
from .images import LabelledImages, Listing, decode_picture
from .originals import list_original
from .webdatasets import list_shards

_SUFFIXES = IMAGE_SUFFIXES | {".ppm"}
_DECODED_PER_SPLIT = 8
COLUMNS = ("data set", "split", "images", "official", "state", "what is missing or wrong")
"""`state` is `complete`, `partial` (fewer images than officially), `unavailable` (none) or `wrong`
(something there cannot be used).
"""
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def list_folder(root: Path, entry: Dataset, split: str) -> Listing | None:
    """List a split of an image folder; None if there is none, or for a multilabel set.

    Where a data set has no split `val`, as ImageNet here, a folder `val` is read as `test`, if
    there is no `test`.

    Raises:
        InputError: If an image is outside any class's folder.
    """
    names = _SPLIT_FOLDERS[split]
    if split == "test" and "val" not in entry.sizes:
        names = (*names, *_SPLIT_FOLDERS["val"])
    folder = next((path for name in names if (path := root / entry.name / name).is_dir()), None)
    if folder is None or entry.multilabel:
        return None
    classes, strays, _ = images_by_folder(folder, _SUFFIXES)
    if strays and classes:
        raise InputError(f"{folder}: images outside of any class's folder\n{list_problems(strays)}")
    if not classes:
        return None
    listed = [(path, label) for label, name in enumerate(classes) for path in classes[name]]
    pictures = [Picture(escape_name(path.relative_to(root)), path) for path, _ in listed]
    labels = [label for _, label in listed]
    return Listing("image folder", pictures, labels, list(classes), folder)


def read_dataset(root: Path, name: str, split: str) -> LabelledImages:
    """Read one split of one data set: which images it has, where their bytes are, and their labels.

    No image is decoded. Layouts are tried in turn; the first that holds the whole split is
    taken.

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
    listing, missing = None, []
    for list_images in (list_folder, list_shards, list_original):
        try:
            listing = listing or list_images(root, entry, split)
        except Unavailable as error:
            missing.append(error.reason)
    if listing is None:
        what = "; ".join(missing) or f"no copy of it in {root}"
        raise Unavailable(f"{name}, split {split}: {what}. Get it from {entry.homepage}")
    ids = join_names(entry, listing.names, listing.where)
    labels, count = np.asarray(listing.labels), len(listing.pictures)
    if not count or len(labels) != count:
        raise InputError(f"{listing.where}: no image, or {count} images and {len(labels)} labels")
    if entry.multilabel:
        joined = np.zeros_like(labels)
        joined[:, ids] = labels
    elif labels.min() < 0 or labels.max() >= entry.num_classes:
        raise InputError(f"{listing.where}: a label is not one of {entry.num_classes} classes")
    else:
        joined = ids[labels]
    return LabelledImages(entry, split, tuple(listing.pictures), joined, listing.layout)


def check_splits(root: Path) -> Iterator[tuple[str, ...]]:
    """Look for every split of every data set below `root`; yield its row, of `COLUMNS`. Lists are
    read in full; a few images of each split are decoded.

    Raises:
        InputError: If there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    for entry in (*DATASETS.values(), IMAGENET):
        for split, official in entry.sizes.items():
            found, state, problem = 0, "complete", ""
            try:
                pictures = read_dataset(root, entry.name, split).pictures
                found = len(pictures)
                places = np.linspace(0, found - 1, _DECODED_PER_SPLIT).astype(int)
                for place in np.unique(places):
                    decode_picture(pictures[place], MAX_PIXELS, is_lenient=True)
                if found != official:
                    state, problem = "partial", f"get it from {entry.homepage}"
            except Unavailable as error:
                state, problem = "unavailable", error.reason
            except InputError as error:
                state, problem = "wrong", str(error)
            yield entry.name, split, f"{found:,}", f"{official:,}", state, problem


def join_names(entry: Dataset, names: Sequence[str], where: Path) -> NDArray[np.int64]:
    """Return the table's class id of each name on disk. Case, spaces, underscores and hyphens do
    not matter.

    A class is known by its first name, its aliases, and the names of the original data set
    (`data/other_names.json`; for ImageNet the WordNet ids). ImageNet has two names twice; these are
    taken in their order.

    Args:
        names: On disk, in the order of label ids there.
        where: The file or folder that holds them, for messages.

    Returns:
        Ids (C,), a permutation.

    Raises:
        InputError: If the number of classes differs or a name does not match, listing the names.
    """
    ids_by_name = _ids_by_name(entry)
    ids = []
    problems = []
    if len(names) != entry.num_classes:
        problems.append(f"{len(names)} classes, {entry.name} has {entry.num_classes}")
    for name in names:
        candidates = ids_by_name.get(normal(name))
        if candidates is None:
            problems.append(f"{name!r}: no class of {entry.name} has this name")
        elif not candidates:
            problems.append(f"{name!r}: names a class that another name already names")
        else:
            ids.append(candidates.pop(0))
    if problems:
        unused = [
            entry.class_names[number] for number in range(entry.num_classes) if number not in ids
        ]
        raise InputError(
            f"{where}: classes cannot be joined by name; rename them\n{list_problems(problems)}\nclasses "
            f"left over: {', '.join(map(repr, unused[:250])) or 'none'}"
        )
    return np.array(ids, np.int64)


def _ids_by_name(entry: Dataset) -> dict[str, list[int]]:
    # Names of one class share one list, so that a class with two names is detected.
    ids_by_name: dict[str, list[int]] = {}
    for class_id, names in enumerate(entry.aliases):
        ids_by_name.setdefault(normal(names[0]), []).append(class_id)
    others = read_data("other_names.json").get(entry.name, {})
    known = [(alias, names[0]) for names in entry.aliases for alias in names[1:]]
    for other, name in (*known, *others.items()):
        ids_by_name.setdefault(normal(other), ids_by_name[normal(name)])
    if entry is IMAGENET:
        path = installed_file("timm", "data", "_info", "imagenet_synsets.txt")
        lines = path.read_text(encoding="utf-8").split() if path else []
        ids_by_name.update({wordnet_id: [class_id] for class_id, wordnet_id in enumerate(lines)})
    return ids_by_name
