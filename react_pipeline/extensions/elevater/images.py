"""The images of one split of a data set: where each one's bytes are, its labels, a digest of it
all.

Every reader returns the one type of this module. Does not belong here: reading bytes
(`labelled.sources`), any layout.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .datasets import Dataset
from .sources import ByteSource


@dataclass(frozen=True)
class LabelledImages:
    """The images of one split, with labels joined to the table's classes by name.

    Attributes:
        locations: For each image a path relative to the root or `archive.zip@member`; in the order
            of the files on disk, which is the order of a submission file.
        labels: int64 (N,) class ids; for a multilabel set uint8 (N, C), 1 where the image has the
            class.
        class_names: First names in the order of class ids, as in the table.
        order: For each class of the files on disk, in their order, its id here. Predictions are put
            back into the order of the files with `scores[:, order]`.
        expected: Official number of images of the split; None where there is none.
        notes: What a user should know of how labels were joined.
    """

    dataset: str
    split: str
    locations: tuple[str, ...]
    labels: NDArray[np.int64] | NDArray[np.uint8]
    class_names: tuple[str, ...]
    order: tuple[int, ...]
    layout: str
    expected: int | None
    source: ByteSource
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.locations)

    def read(self, position: int) -> bytes:
        """The bytes of an image file.

        Raises:
            InputError: If it is gone or damaged.
        """
        return self.source.read(position)

    def digest(self) -> str:
        """SHA-256 over the names, sizes, checksums and labels of the images and the order of the
        classes, for lineage.

        The order decides the columns of a submission. Members of zip archives are taken by the CRC
        of the archive's directory, which reading verifies; other files are read.

        Raises:
            InputError: If a file is gone.
        """
        digest = hashlib.sha256()
        digest.update("\n".join((self.dataset, self.split, *self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.labels).astype("<i8").tobytes())
        digest.update(f"\n{self.order}".encode())
        for position, location in enumerate(self.locations):
            size, crc = self.source.checksum(position)
            digest.update(f"\n{location}\0{size}\0{crc}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def labelled_images(
    entry: Dataset,
    split: str,
    locations: list[str],
    labels: NDArray[Any],
    order: NDArray[np.int64],
    layout: str,
    source: ByteSource,
    notes: tuple[str, ...] = (),
) -> LabelledImages:
    """Bring labels of the order on disk into the table's order.

    Args:
        labels: (N,) positions in the order on disk, or (N, C) zeros and ones.
        order: (C,) the table's id of each class on disk.
    """
    if entry.multilabel:
        joined: NDArray[Any] = np.zeros((len(locations), entry.num_classes), np.uint8)
        joined[:, order] = labels
    else:
        joined = order[np.asarray(labels, np.int64)].astype(np.int64)
    expected = entry.sizes.get(split)
    ids = tuple(int(number) for number in order)
    return LabelledImages(
        entry.name,
        split,
        tuple(locations),
        joined,
        entry.class_names,
        ids,
        layout,
        expected,
        source,
        notes,
    )
