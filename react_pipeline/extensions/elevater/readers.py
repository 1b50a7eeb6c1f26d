"""The one entry for reading a data set, in any of the known layouts."""

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from react_pipeline.extensions.elevater.datasets import dataset
from react_pipeline.extensions.elevater.folders import read_folder
from react_pipeline.extensions.elevater.images import LabelledImages
from react_pipeline.extensions.elevater.index_files import read_elevater
from react_pipeline.extensions.elevater.originals import read_original
from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.extensions.elevater.webdatasets import read_webdataset
from react_pipeline.labelled import Unavailable
from react_pipeline.project import Project

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
            found = read(root, entry, split)
        except Unavailable as error:
            missing.append(error.reason)
            continue
        if found is not None:
            for note in found.notes if warn else ():
                logger.warning("%s: %s", name, note)
            return found
    what = "; ".join(missing) or f"no copy of it in {root}"
    raise Unavailable(f"{name}, split {split}: {what}. Get it from {entry.homepage}")


def test_digests(project: Project) -> dict[str, frozenset[str]]:
    """SHA-256 of the files of the test images, by data set; only data sets that are there."""
    elevater = project.config.section(ElevaterConfig)
    if elevater.root is None or not elevater.root.is_dir():
        return {}
    digests = {}
    for name in elevater.dataset_names:
        try:
            images = read_dataset(elevater.root, name, "test", warn=False)
        except Unavailable:
            continue
        with ThreadPoolExecutor(4) as pool:
            files = pool.map(images.read, range(len(images)))
            digests[name] = frozenset(hashlib.sha256(data).hexdigest() for data in files)
    return digests
