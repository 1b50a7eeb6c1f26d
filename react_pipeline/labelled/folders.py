"""Reader of image folders: `ROOT/<data set>/<split>/<class>/...`; torchvision's country211 and rendered-sst2 are such.

Does not belong here: domains' own labelled folders (`react_pipeline.labelled.labels`).
"""

from pathlib import Path

import numpy as np

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.labelled.images import FileSource, LabelledImages, labelled_images
from react_pipeline.labelled.labels import lines_of
from react_pipeline.labelled.names import join_names
from react_pipeline.settings import Dataset
from react_pipeline.store import InputError

LAYOUT = "image folder"
_SUFFIXES = IMAGE_SUFFIXES | {".ppm"}
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_folder(root: Path, entry: Dataset, split: str) -> LabelledImages | None:
    """Read a split of an image folder; None if there is none, or for a multilabel set.

    Where a data set has no split `val`, as ImageNet here, a folder `val` is read as `test`, if there is no `test`.

    Raises:
        InputError: If classes do not match, or an image is outside any class's folder.
    """
    folders = _SPLIT_FOLDERS[split]
    if split == "test" and "val" not in entry.sizes:
        folders = (*folders, *_SPLIT_FOLDERS["val"])
    folder = next((path for name in folders if (path := root / entry.name / name).is_dir()), None)
    if folder is None or entry.multilabel:
        return None
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    classes = [path for path in visible if path.is_dir()]
    if not classes:
        return None
    strays = [path.name for path in visible if path.suffix.lower() in _SUFFIXES and path.is_file()]
    if strays:
        raise InputError(f"{folder}: images outside of any class's folder\n{lines_of(strays)}")
    order, notes = join_names(entry, [path.name for path in classes], folder, root)
    locations, labels, ignored = [], [], 0
    for label, directory in enumerate(classes):
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
                locations.append(path.relative_to(root).as_posix())
                labels.append(label)
            else:
                ignored += 1
    if not locations:
        raise InputError(f"{folder}: no image in any class's folder")
    if ignored:
        notes = (*notes, f"{folder}: {ignored} files that are no images were left out")
    source = FileSource(root, tuple(locations))
    return labelled_images(entry, split, locations, np.array(labels, np.int64), order, LAYOUT, source, notes)
