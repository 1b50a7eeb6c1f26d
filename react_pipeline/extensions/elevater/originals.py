"""Reader of the data sets as torchvision lays them out on disk; nothing is downloaded.

Does not belong here: country211 and rendered-sst2, which are image folders (`folders`), and sets of
which torchvision knows no split (caltech-101, eurosat_clip). torch is loaded only when such data is
found. The splits are the official ones, the order of images is torchvision's.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.installation import install_command
from react_pipeline.labelled import Unavailable, read_csv
from react_pipeline.store import InputError

from .datasets import Dataset
from .images import LabelledImages, labelled_images
from .listing import read_lines, require_images
from .names import join_names
from .sources import ByteSource, FileSource, open_once

LAYOUT = "torchvision"
NOT_ELEVATERS_ORDER = (
    "the order of images is torchvision's: metrics compare, a submission file would not line up"
)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images as an array, uint8 (N, H, W) or (N, H, W, 3), in memory or in an HDF5 file; given out
    as PNG.
    """

    pixels: NDArray[np.uint8] | Path

    def read(self, position: int) -> bytes:
        """The image as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self._of(position)).save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    def checksum(self, position: int) -> tuple[int, int]:
        """Size and CRC-32 of the pixels."""
        pixels = self._of(position)
        return pixels.nbytes, zlib.crc32(pixels.tobytes())

    def _of(self, position: int) -> NDArray[np.uint8]:
        whole = _hdf5(self.pixels, "x") if isinstance(self.pixels, Path) else self.pixels
        return np.ascontiguousarray(whole[position], np.uint8)


@dataclass(frozen=True)
class _Listing:
    locations: list[str]
    labels: Any
    names: Sequence[str]
    source: ByteSource
    where: Path
    notes: tuple[str, ...] = ()


def read_original(root: Path, entry: Dataset, split: str) -> LabelledImages | None:
    """Read a split as torchvision's class for this data set finds it; None if the root holds none
    of it.

    Raises:
        Unavailable: If torchvision has no such split, or its files are missing.
        InputError: If torchvision finds them damaged, or classes do not match.
    """
    layout = entry.original
    if layout is None or not (root / layout["folder"]).is_dir():
        return None
    where = root / layout["folder"]
    if split not in layout["splits"]:
        raise Unavailable(f"{where} (torchvision's {entry.torchvision}) has no split {split!r}")
    try:
        listing = _READERS[layout["form"]](root, where, entry, layout["splits"][split])
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename or where} is missing") from error
    except ModuleNotFoundError as error:
        raise InputError(f"{where}: {error}: {install_command('elevater')}") from error
    except InputError:
        raise
    # torchvision raises RuntimeError for what it misses; what it then parses fails in any way.
    except Exception as error:
        problem = (
            f"{where}: torchvision's {entry.torchvision} cannot read it ({error}); copy it again"
        )
        is_missing = "not found" in str(error) and "corrupted" not in str(error)
        if is_missing and isinstance(error, RuntimeError):
            raise Unavailable(problem) from error
        raise InputError(problem) from error
    order, notes = join_names(entry, list(listing.names), listing.where, root)
    labels = np.asarray(listing.labels)
    if not len(listing.locations) or len(labels) != len(listing.locations):
        raise InputError(
            f"{listing.where}: {len(listing.locations)} images and {len(labels)} labels"
        )
    if not entry.multilabel and not (labels.min() >= 0 and labels.max() < entry.num_classes):
        raise InputError(
            f"{listing.where}: label out of range, there are {entry.num_classes} classes"
        )
    notes = (*notes, *listing.notes, NOT_ELEVATERS_ORDER)
    return labelled_images(
        entry, split, listing.locations, labels, order, LAYOUT, listing.source, notes
    )


def _torchvision(entry: Dataset) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, str(entry.torchvision))


def _files(root: Path, paths: Sequence[Any], where: Path) -> tuple[list[str], FileSource]:
    locations = [Path(path).relative_to(root).as_posix() for path in paths]
    require_images(root, locations, where)
    return locations, FileSource(root, tuple(locations))


def _read_listed(root: Path, where: Path, entry: Dataset, split: str) -> _Listing:
    made = _torchvision(entry)(str(root), split=split, download=False)
    samples = getattr(made, "_samples", None)
    if samples is None:
        images = getattr(made, "_image_files", None)
        samples = list(zip(made._images if images is None else images, made._labels, strict=True))
    names = getattr(made, "classes", None)
    if names is None:
        # Folders of traffic signs are numbered, and so are the classes.
        names = [f"{number:05d}" for number in range(entry.num_classes)]
    locations, source = _files(root, [path for path, _ in samples], where)
    return _Listing(locations, [label for _, label in samples], names, source, where)


def _read_arrays(root: Path, where: Path, entry: Dataset, split: str) -> _Listing:
    made = _torchvision(entry)(str(root), train=split == "train", download=False)
    source = ArraySource(np.asarray(made.data, np.uint8))
    locations = [f"{where.name}/{split}#{number}" for number in range(len(made.data))]
    return _Listing(locations, made.targets, made.classes, source, where)


def _read_pcam(_root: Path, where: Path, _entry: Dataset, split: str) -> _Listing:
    stem = f"camelyonpatch_level_2_split_{split}"
    images = where / f"{stem}_x.h5"
    targets = where / f"{stem}_y.h5"
    for path in (images, targets):
        if not path.is_file():
            raise Unavailable(f"{path} is missing")
    labels = np.asarray(_hdf5(targets, "y")).reshape(-1)
    locations = [f"{images.name}#{number}" for number in range(len(_hdf5(images, "x")))]
    return _Listing(locations, labels, ("normal", "tumor"), ArraySource(images), images)


def _read_fer(_root: Path, where: Path, _entry: Dataset, usage: str) -> _Listing:
    # torchvision joins the public and the private test, which are ELEVATER's val and test.
    paths = [where / "fer2013.csv", where / "icml_face_data.csv"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise Unavailable(f"{paths[0]} and {paths[1].name} are missing")
    table = read_csv(path, skipinitialspace=True)
    rows = table[table["Usage"] == usage]
    pixels = [np.array(text.split(), np.uint8).reshape(48, 48) for text in rows["pixels"]]
    names = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    locations = [f"{path.name}/{usage}#{number}" for number in range(len(rows))]
    source = ArraySource(np.array(pixels, np.uint8))
    return _Listing(locations, rows["emotion"].to_numpy(), names, source, path)


def _read_voc(root: Path, where: Path, entry: Dataset, split: str) -> _Listing:
    made = _torchvision(entry)(str(root), year="2007", image_set=split, download=False)
    lists = where / "ImageSets" / "Main"
    locations, source = _files(root, made.images, lists / f"{split}.txt")
    rows = {Path(location).stem: row for row, location in enumerate(locations)}
    labels = np.zeros((len(locations), entry.num_classes), np.uint8)
    for column, name in enumerate(entry.class_names):
        for line in read_lines(lists / f"{name}_{split}.txt"):
            image, mark = line.split()
            labels[rows[image], column] = mark == "1"
    note = "objects marked as difficult do not count as present"
    return _Listing(locations, labels, entry.class_names, source, lists, (note,))


_READERS: dict[str, Callable[[Path, Path, Dataset, str], _Listing]] = {
    "listed": _read_listed,
    "arrays": _read_arrays,
    "pcam": _read_pcam,
    "fer": _read_fer,
    "voc": _read_voc,
}
"""By the form that a row of the table names."""


def _hdf5(path: Path, name: str) -> Any:
    import h5py  # type: ignore[import-untyped]

    try:
        return open_once(path, h5py.File)[name]
    except (OSError, KeyError) as error:
        raise InputError(
            f"{path}: not an HDF5 file with {name!r}, or damaged ({error}); copy it again"
        ) from error
