"""The test images of a data set for a domain, read in place from archives too.

Belongs here: joining the data set's classes with the domain's, and reading an image again by its
location.
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from react_pipeline.labelled import Unavailable, lines_of, normal
from react_pipeline.settings import DomainConfig
from react_pipeline.store import InputError

from .datasets import dataset
from .images import LabelledImages
from .readers import read_dataset

SPLIT = "test"


def list_images(root: Path, name: str, domain: DomainConfig) -> pd.DataFrame:
    """List the test images of a data set, with the domain's label of each class.

    Args:
        name: A data set whose images have one class each.
        domain: Must have every class of the data set, under the name or a synonym; it may have
            more.

    Returns:
        Columns path (relative to the root: `<data set>/<number>/<its own location>`), class; in the
        order on disk.

    Raises:
        Unavailable: If the data set is not there.
        InputError: If it is wrong, or the domain lacks classes.
    """
    entry = dataset(name)
    by_name: dict[str, list[str]] = {}
    for domain_class in domain.classes:
        for text in (domain_class.name, *domain_class.synonyms):
            by_name.setdefault(normal(text), []).append(domain_class.label)
    joined: list[str] = []
    lacking: list[str] = []
    for names in entry.aliases:
        labels = next((by_name[normal(text)] for text in names if normal(text) in by_name), [])
        if not labels:
            lacking.append(names[0])
            continue
        # Classes of one name, of which ImageNet has two pairs, are joined in their order.
        joined.append(labels.pop(0) if len(labels) > 1 else labels[0])
    if lacking:
        raise InputError(
            f"domain {domain.slug!r} lacks {len(lacking)} classes of {name}\n{lines_of(lacking)}"
        )
    # Lists that were read before may be those of other files.
    _test_images.cache_clear()
    images = read_dataset(root, name, SPLIT)
    paths = [f"{name}/{number}/{location}" for number, location in enumerate(images.locations)]
    return pd.DataFrame({"path": paths, "class": [joined[int(label)] for label in images.labels]})


def read_image(root: Path, name: str) -> bytes:
    """The bytes of an image that `list_images` named.

    Raises:
        InputError: If the data set or the image is gone, or another image has its place now.
    """
    data_set, number, location = name.split("/", 2)
    try:
        images = _test_images(root, data_set)
    except Unavailable as error:
        raise InputError(f"{root}/{name}: {error.reason}") from error
    position = int(number)
    if position >= len(images) or images.locations[position] != location:
        raise InputError(f"{root}/{name}: the data set changed; rematerialize `evaluation_set`")
    return images.read(position)


@lru_cache(maxsize=4)
def _test_images(root: Path, name: str) -> LabelledImages:
    # Reading the lists again for each image would take far longer than the image.
    return read_dataset(root, name, SPLIT)
