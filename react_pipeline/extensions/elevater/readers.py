"""The one entry for reading a data set, in any of the known layouts."""

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from react_pipeline.labelled import Unavailable

from .datasets import dataset
from .folders import read_folder
from .images import LabelledImages
from .index_files import read_elevater
from .originals import read_original
from .webdatasets import read_webdataset

logger = logging.getLogger(__name__)

_READERS = (read_elevater, read_folder, read_webdataset, read_original)
"""In order of preference: an ELEVATER copy alone has ELEVATER's order of images."""


def read_dataset(root: Path, name: str, split: str, *, warn: bool = True) -> LabelledImages:
    """Read one split of one data set: which images it has, where their bytes are, and their labels.

    No image is decoded. Layouts are tried in turn; the first that holds the split is taken.

    Args:
        root: Folder of a local ELEVATER copy, of image folders, of clip-benchmark's tar shards, or
            of torchvision's data; a mixture is fine.
        warn: Log what a user should know of how labels were joined; also in `notes`.

    Raises:
        Unavailable: If the split is not there, with what is missing and where to get it.
        InputError: If it is there and wrong, naming the file and every fault.
    """
    entry = dataset(name)
    if split not in entry.sizes:
        raise Unavailable(f"{name} has no split {split!r}")
    missing = []
    for read in _READERS:
        try:
            images = read(root, entry, split)
        except Unavailable as error:
            missing.append(error.reason)
            continue
        if images is not None:
            for note in images.notes if warn else ():
                logger.warning("%s: %s", name, note)
            return images
    what = "; ".join(missing) or f"no copy of it in {root}"
    raise Unavailable(f"{name}, split {split}: {what}. Get it from {entry.homepage}")


def test_digests(root: Path, name: str) -> frozenset[str]:
    """Return the SHA-256 of the files of a data set's test images; none if it is not there."""
    try:
        images = read_dataset(root, name, "test", warn=False)
    except Unavailable:
        return frozenset()
    with ThreadPoolExecutor(4) as pool:
        files = pool.map(images.read, range(len(images)))
        return frozenset(hashlib.sha256(data).hexdigest() for data in files)
