"""The one entry for reading a data set in any of the known layouts, its classes joined by name.

A position never decides which class a label means. Belongs here too: the layout of image folders,
`ROOT/<data set>/<split>/<class>/...` (torchvision's country211 and rendered-sst2 are such), and the
report of which splits are there.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from react_pipeline.corpus import IMAGE_SUFFIXES, BadImage, decode_apart
from react_pipeline.installation import installed_file
from react_pipeline.labelled import Unavailable, images_by_folder, list_problems, normal
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import InputError

from .datasets import DATASETS, IMAGENET, Dataset, dataset, read_data
from .images import Files, LabelledImages, Listing
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
    paths = [path for images in classes.values() for path in images]
    locations = tuple(path.relative_to(root).as_posix() for path in paths)
    labels = [label for label, images in enumerate(classes.values()) for _ in images]
    return Listing(locations, labels, list(classes), folder, Files(root, locations))


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
            labels = _join_labels(entry, listing)
            places = tuple(listing.locations)
            return LabelledImages(entry, split, places, labels, layout, listing.read)
    what = "; ".join(missing) or f"no copy of it in {root}"
    raise Unavailable(f"{name}, split {split}: {what}. Get it from {entry.homepage}")


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
                images = read_dataset(root, entry.name, split)
                found = len(images)
                _decode_some(images)
                if found != official:
                    state, problem = "partial", f"get it from {entry.homepage}"
            except Unavailable as error:
                state, problem = "unavailable", error.reason
            except InputError as error:
                state, problem = "wrong", str(error)
            yield entry.name, split, f"{found:,}", f"{official:,}", state, problem


def _decode_some(images: LabelledImages) -> None:
    """Decode a few; truncated files are used as far as they decode."""
    for position in np.unique(np.linspace(0, len(images) - 1, _DECODED_PER_SPLIT).astype(int)):
        try:
            decode_apart(images.read(int(position)), MAX_PIXELS, is_lenient=True)
        except BadImage as error:
            raise InputError(f"{images.locations[position]}: no usable image ({error})") from error


def test_digests(root: Path, name: str) -> frozenset[str]:
    """Return the SHA-256 of the files of a data set's test images; none if it is not there."""
    try:
        return frozenset(read_dataset(root, name, "test").digests())
    except Unavailable:
        return frozenset()


def _join_labels(entry: Dataset, listing: Listing) -> NDArray[np.int64] | NDArray[np.uint8]:
    ids = join_names(entry, listing.names, listing.where)
    labels = np.asarray(listing.labels)
    count = len(listing.locations)
    if not count or len(labels) != count:
        raise InputError(f"{listing.where}: no image, or {count} images and {len(labels)} labels")
    if entry.multilabel:
        joined = np.zeros((count, entry.num_classes), np.uint8)
        joined[:, ids] = labels
        return joined
    if labels.min() < 0 or labels.max() >= entry.num_classes:
        raise InputError(
            f"{listing.where}: label out of range, there are {entry.num_classes} classes"
        )
    return ids[labels]


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
