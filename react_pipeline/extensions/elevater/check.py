"""A report of which splits of the data sets are present, complete and valid.

No model is loaded; torch only if torchvision's own layout of some data set is found.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.labelled import Unavailable
from react_pipeline.settings import MAX_PIXELS
from react_pipeline.store import InputError

from .datasets import DATASETS, IMAGENET
from .images import LabelledImages
from .readers import read_dataset

_DECODED_PER_SPLIT = 8
COLUMNS = ("data set", "split", "images", "official", "state", "what is missing or wrong")
"""`state` is `complete`, `partial` (fewer images than officially), `unavailable` (none) or `wrong`
(something there cannot be used).
"""


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
