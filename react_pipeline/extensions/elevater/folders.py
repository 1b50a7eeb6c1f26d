"""The layout of image folders: `ROOT/<data set>/<split>/<class>/...`; torchvision's country211 and
rendered-sst2 are such.

Does not belong here: domains' own labelled folders (`react_pipeline.labelled.labels`).
"""

from pathlib import Path

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.labelled import images_by_folder, list_problems
from react_pipeline.store import InputError

from .datasets import Dataset
from .images import Files, Listing

_SUFFIXES = IMAGE_SUFFIXES | {".ppm"}
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
