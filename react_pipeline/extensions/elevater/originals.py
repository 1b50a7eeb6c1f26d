"""The layout of the data sets as torchvision puts them on disk; nothing is downloaded.

Does not belong here: country211 and rendered-sst2, which are image folders (`readers`), and sets of
which torchvision knows no split (caltech-101, eurosat_clip). torch is loaded only when such data is
found. The splits are the official ones, the order of images is torchvision's.
"""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.labelled import Unavailable, list_problems, read_csv
from react_pipeline.store import InputError

from .datasets import Dataset
from .images import Files, Listing, read_lines

_PCAM = ("normal", "tumor")
_FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Class names that the files leave out, by label."""


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Gives images of an array, uint8 (N, H, W) or (N, H, W, 3), in memory or in an HDF5 file, as
    PNG.
    """

    pixels: NDArray[np.uint8] | Path

    def __call__(self, position: int) -> bytes:
        whole = _hdf5(self.pixels, "x") if isinstance(self.pixels, Path) else self.pixels
        buffer = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(whole[position], np.uint8))
        image.save(buffer, format="PNG", compress_level=0)  # read once, then thrown away
        return buffer.getvalue()


def list_original(root: Path, entry: Dataset, split: str) -> Listing | None:
    """List a split as torchvision's class for this data set finds it; None if the root holds none
    of it.

    Raises:
        Unavailable: If torchvision has no such split, or its files are missing.
        InputError: If torchvision finds them damaged.
    """
    layout = entry.original
    if layout is None or not (root / layout["folder"]).is_dir():
        return None
    where = root / layout["folder"]
    if split not in layout["splits"]:
        raise Unavailable(f"{where} (torchvision's {entry.torchvision}) has no split {split!r}")
    try:
        return _FORMS[layout["form"]](root, where, entry, layout["splits"][split])
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename or where} is missing") from error
    except (InputError, ModuleNotFoundError):
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


def _list_files(root: Path, where: Path, entry: Dataset, split: str) -> Listing:
    made = _torchvision(entry)(str(root), split=split, download=False)
    samples = getattr(made, "_samples", None)
    if samples is None:
        images = made._images if hasattr(made, "_images") else made._image_files
        samples = list(zip(images, made._labels, strict=True))
    # Folders of traffic signs are numbered, and so are the classes.
    numerals = [f"{number:05d}" for number in range(entry.num_classes)]
    paths, labels = zip(*samples, strict=True)
    read = _files(root, paths, where)
    return Listing(read.locations, labels, getattr(made, "classes", numerals), where, read)


def _list_arrays(root: Path, where: Path, entry: Dataset, split: str) -> Listing:
    made = _torchvision(entry)(str(root), train=split == "train", download=False)
    read = _Pixels(np.asarray(made.data, np.uint8))
    locations = _numbered(f"{where.name}/{split}", len(made.data))
    return Listing(locations, made.targets, made.classes, where, read)


def _list_pcam(_root: Path, where: Path, _entry: Dataset, split: str) -> Listing:
    images, targets = (
        where / f"camelyonpatch_level_2_split_{split}_{part}.h5" for part in ("x", "y")
    )
    labels = np.asarray(_hdf5(targets, "y")).reshape(-1)
    locations = _numbered(images.name, len(_hdf5(images, "x")))
    return Listing(locations, labels, _PCAM, images, _Pixels(images))


def _list_fer(_root: Path, where: Path, _entry: Dataset, usage: str) -> Listing:
    # torchvision joins the public and the private test, which are ELEVATER's val and test.
    paths = [where / "fer2013.csv", where / "icml_face_data.csv"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise Unavailable(f"{paths[0]} and {paths[1].name} are missing")
    table = read_csv(path, skipinitialspace=True)
    rows = table[table["Usage"] == usage]
    pixels = [np.array(text.split(), np.uint8).reshape(48, 48) for text in rows["pixels"]]
    locations = _numbered(f"{path.name}/{usage}", len(rows))
    read = _Pixels(np.array(pixels, np.uint8))
    return Listing(locations, rows["emotion"].to_numpy(), _FER, path, read)


def _list_voc(root: Path, where: Path, entry: Dataset, split: str) -> Listing:
    """List VOC 2007; objects that are marked as difficult do not count as present."""
    made = _torchvision(entry)(str(root), year="2007", image_set=split, download=False)
    lists = where / "ImageSets" / "Main"
    read = _files(root, made.images, lists / f"{split}.txt")
    rows = {Path(location).stem: row for row, location in enumerate(read.locations)}
    labels = np.zeros((len(rows), entry.num_classes), np.uint8)
    for column, name in enumerate(entry.class_names):
        for line in read_lines(lists / f"{name}_{split}.txt"):
            image, mark = line.split()
            labels[rows[image], column] = mark == "1"
    return Listing(read.locations, labels, entry.class_names, lists, read)


_FORMS: dict[str, Callable[[Path, Path, Dataset, str], Listing]] = {
    "listed": _list_files,
    "arrays": _list_arrays,
    "pcam": _list_pcam,
    "fer": _list_fer,
    "voc": _list_voc,
}
"""By the form that a row of the table names."""


def _torchvision(entry: Dataset) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, str(entry.torchvision))


def _files(root: Path, paths: Sequence[Any], where: Path) -> Files:
    if missing := [str(path) for path in paths if not Path(path).is_file()]:
        raise InputError(f"{where}: {len(missing)} images are missing\n{list_problems(missing)}")
    return Files(root, tuple(Path(path).relative_to(root).as_posix() for path in paths))


def _numbered(place: str, count: int) -> list[str]:
    return [f"{place}#{number}" for number in range(count)]


def _hdf5(path: Path, name: str) -> Any:
    try:
        return _open_hdf5(path, os.getpid())[name]
    except FileNotFoundError as error:
        raise Unavailable(f"{path} is missing") from error
    except (OSError, KeyError) as error:
        raise InputError(
            f"{path}: not an HDF5 file with {name!r}, or damaged ({error}); copy it again"
        ) from error


@lru_cache(maxsize=8)
def _open_hdf5(path: Path, _process: int) -> Any:
    """Open a file once in each process: a child shares the offset of its parent's."""
    import h5py  # type: ignore[import-untyped]

    return h5py.File(path)
