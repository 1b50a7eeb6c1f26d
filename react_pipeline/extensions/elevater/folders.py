"""Reader of image folders: `ROOT/<data set>/<split>/<class>/...`; torchvision's country211 and
rendered-sst2 are such.

Does not belong here: domains' own labelled folders (`react_pipeline.labelled.labels`).
"""

from pathlib import Path

import numpy as np

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.labelled import images_by_folder, lines_of
from react_pipeline.store import InputError

from .datasets import Dataset
from .images import LabelledImages, labelled_images
from .names import join_names
from .sources import FileSource

LAYOUT = "image folder"
_SUFFIXES = IMAGE_SUFFIXES | {".ppm"}
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_folder(root: Path, entry: Dataset, split: str) -> LabelledImages | None:
    """Read a split of an image folder; None if there is none, or for a multilabel set.

    Where a data set has no split `val`, as ImageNet here, a folder `val` is read as `test`, if
    there is no `test`.

    Raises:
        InputError: If classes do not match, or an image is outside any class's folder.
    """
    folders = _SPLIT_FOLDERS[split]
    if split == "test" and "val" not in entry.sizes:
        folders = (*folders, *_SPLIT_FOLDERS["val"])
    folder = next((path for name in folders if (path := root / entry.name / name).is_dir()), None)
    if folder is None or entry.multilabel:
        return None
    classes, strays, ignored = images_by_folder(folder, _SUFFIXES)
    if not classes:
        return None
    if strays:
        raise InputError(f"{folder}: images outside of any class's folder\n{lines_of(strays)}")
    order, notes = join_names(entry, list(classes), folder, root)
    locations = [path.relative_to(root).as_posix() for paths in classes.values() for path in paths]
    labels = [label for label, paths in enumerate(classes.values()) for _ in paths]
    if not locations:
        raise InputError(f"{folder}: no image in any class's folder")
    if ignored:
        notes = (*notes, f"{folder}: {ignored} files that are not images were left out")
    source = FileSource(root, tuple(locations))
    return labelled_images(
        entry, split, locations, np.array(labels, np.int64), order, LAYOUT, source, notes
    )
